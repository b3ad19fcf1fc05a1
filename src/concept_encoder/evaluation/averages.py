"""The GLUE average, of which there are at least six: each under its name, and never one compared with another."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

Scores = Mapping[str, float]  # `task.metric` -> score
CORRELATION = "stsb.correlation"  # of a table that does not say whether it is Pearson's or Spearman's
_FIVE = ("cola.matthews_correlation", "sst2.accuracy", "qnli.accuracy", "rte.accuracy", "mnli.accuracy")


@dataclass(frozen=True)
class Average:
    """A mean of named parts; a part is one score, or the mean of several.

    Attributes:
        parts: of each summand, the scores of which it is the mean.
        split: where its users measure it, as in `published`; `dev` and `test` scores of one model are points apart.
        users: who reports it.
    """

    name: str
    parts: tuple[tuple[str, ...], ...]
    split: str
    users: str

    def missing(self, scores: Scores) -> list[str]:
        """The scores that it would need and that are not there."""
        return [name for part in self.parts for name in part if _find(name, scores) is None]

    def __call__(self, scores: Scores) -> float | None:
        """The average, or None when a score is missing (`missing` says which)."""
        if self.missing(scores):
            return None
        return fmean(fmean(_find(name, scores) for name in part) for part in self.parts)


def _find(name: str, scores: Scores) -> float | None:
    """A score; either correlation answers for the one that a definition leaves open, Pearson's first."""
    if name != CORRELATION:
        return scores.get(name)
    return next((scores[found] for found in (CORRELATION, "stsb.pearson", "stsb.spearman") if found in scores), None)


def _each(*names: str) -> tuple[tuple[str, ...], ...]:
    return tuple((name,) for name in names)


AVERAGES: dict[str, Average] = {
    average.name: average
    for average in (
        Average(
            "AVG8-acc",
            _each(*_FIVE, "mrpc.accuracy", "qqp.accuracy", CORRELATION),
            "dev",
            "Perceiver IO, ELECTRA, RoBERTa, ModernBERT: eight tasks, MRPC and QQP by accuracy, MNLI matched",
        ),
        Average(  # Devlin et al. count both MNLI sets: only so are their rows' means the printed 79.6
            "AVG8-test-F1",
            _each(*_FIVE, "mnli-mm.accuracy", "mrpc.f1", "qqp.f1", "stsb.spearman"),
            "test",
            "Devlin et al. 2019, Table 1: MRPC and QQP by F1, both MNLI sets counted, no WNLI",
        ),
        Average(
            "AVG9-leader",
            (
                *_each("cola.matthews_correlation", "sst2.accuracy", "qnli.accuracy", "rte.accuracy", "wnli.accuracy"),
                ("mnli.accuracy", "mnli-mm.accuracy"),
                ("mrpc.f1", "mrpc.accuracy"),
                ("qqp.f1", "qqp.accuracy"),
                ("stsb.pearson", "stsb.spearman"),
            ),
            "test",
            "the leaderboard and Google's miniature BERTs: with WNLI, two metrics of a task averaged first",
        ),
        Average(
            "AVG9-dev",
            _each(*_FIVE, "mrpc.accuracy", "qqp.accuracy", CORRELATION, "wnli.accuracy"),
            "dev",
            "DistilBERT: AVG8-acc with WNLI",
        ),
        Average(
            "BabyLM-GLUE",
            _each(
                *_FIVE,
                "mnli-mm.accuracy",
                "mrpc.f1",
                "qqp.f1",
                "boolq.accuracy",
                "multirc.accuracy",
                "wsc.accuracy",
            ),
            "babylm",
            "BabyLM (the eleven of GPT-BERT): vocabulary-filtered sets of its own, so of BabyLM runs only",
        ),
        Average(
            "PLAN-avg",
            _each(*_FIVE, "mrpc.f1", "qqp.f1"),
            "dev",
            "research plan v2: seven tasks, MRPC and QQP by F1, set against a BERT-Base row by accuracy",
        ),
    )
}


def averages(scores: Scores) -> dict[str, float | None]:
    """Every average of `AVERAGES`; None where a score is missing."""
    return {name: average(scores) for name, average in AVERAGES.items()}

"""An analysis as people read it: key figures and one page.

Everything here is computed from the dictionary that `analyze` returns (or `analysis.json` holds), never
from a model.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from concept_encoder.analysis.figures import to_svg
from concept_encoder.analysis.overlap import TARGET_MEAN
from concept_encoder.analysis.pictures import Analysis, figures_of
from concept_encoder.analysis.rank import NEARLY_ONE_VECTOR, TARGET_SHARE
from concept_encoder.analysis.report import Number, Report
from concept_encoder.errors import UserError
from concept_encoder.records import write_atomically


@dataclass(frozen=True)
class KeyFigure:
    """One number of an analysis: its name, the keys that lead to it, what is wanted of it, and how to read
    it.
    """

    label: str
    path: tuple[str, ...]
    target: str = ""
    met: Callable[[Any, Analysis], bool] | None = None
    note: str = ""

    def of(self, analysis: Analysis) -> Any:
        """The value; the length of a list; None when this analysis has none."""
        value: Any = analysis
        for name in self.path:
            value = (value or {}).get(name)
        return len(value) if isinstance(value, list) else value

    def number(self, analysis: Analysis) -> Number:
        """The value marked against its target."""
        value = self.of(analysis)
        met = None if value is None or self.met is None else self.met(value, analysis)
        return Number(self.label, value, self.target, met, self.note)


KEY_FIGURES = (
    KeyFigure("effective rank", ("rank", "effective_rank")),
    KeyFigure(
        "effective rank / noise ceiling",
        ("rank", "share_of_ceiling"),
        f"> {TARGET_SHARE}",
        # Concepts that are almost one vector can reach any rank in the little that is left: that meets no
        # target.
        lambda value, analysis: value > TARGET_SHARE and analysis["rank"]["common_share"] <= NEARLY_ONE_VECTOR,
    ),
    KeyFigure(
        "content rank / noise ceiling",
        ("rank", "content_share_of_ceiling"),
        note="slots that ignore the text score nothing",
    ),
    KeyFigure("energy in one common vector", ("rank", "common_share"), note="near 1 the ranks describe a remainder"),
    KeyFigure(
        "mean |correlation|",
        ("overlap", "raw", "mean_absolute"),
        f"< {TARGET_MEAN}",
        lambda value, analysis: value < TARGET_MEAN,
    ),
    KeyFigure("participation ratio of dimensions", ("dimensions", "participation_ratio")),
    KeyFigure("noise ceiling of the rank", ("rank", "noise_ceiling")),
    KeyFigure("content rank", ("rank", "content_rank")),
    KeyFigure(
        "sum / largest singular value (MrCogito's rank)",
        ("rank", "sum_over_max"),
        note="of the uncentred mean over texts: one shared vector drives it down; for comparison, decides nothing",
    ),
    KeyFigure("variance between texts", ("rank", "variance", "between_texts")),
    KeyFigure("RankMe over texts", ("rank", "rankme")),
    KeyFigure("RankMe over texts, centred", ("rank", "rankme_centred")),
    KeyFigure("largest |correlation|", ("overlap", "raw", "max_absolute")),
    KeyFigure("mean |correlation| of content", ("overlap", "content", "mean_absolute")),
    KeyFigure("concepts that duplicate another", ("overlap", "raw", "duplicated_concepts")),
    KeyFigure("dead concepts", ("overlap", "dead")),
    KeyFigure("share of dimensions in use", ("dimensions", "share_above_floor")),
    KeyFigure("directions for 90 % of the variance", ("dimensions", "directions_for_90")),
    KeyFigure("attention entropy, last read", ("attention", "last", "mean_entropy")),
    KeyFigure("concepts that look by position", ("attention", "last", "position_lookups")),
    KeyFigure("concepts that look by content", ("attention", "last", "content_lookups")),
    KeyFigure("concepts selective for a word class", ("roles", "selective_concepts")),
    KeyFigure("concepts that carry the label", ("task", "carriers")),
    KeyFigure("loss added, all concepts zeroed", ("causal", "all", "zero", "added")),
    KeyFigure("loss added, all concepts shuffled", ("causal", "all", "shuffle", "added")),
    KeyFigure("loss added, all concepts at their mean", ("causal", "all", "mean", "added")),
    KeyFigure("tokens per concept, as used", ("texts", "tokens_per_concept")),
    KeyFigure("health", ("health", "verdict")),
)
_CARDS = 6  # the first ones are shown large


def key_numbers(analysis: Analysis) -> list[Number]:
    """Every key figure that this analysis has, marked against its target."""
    numbers = (key.number(analysis) for key in KEY_FIGURES)
    return [number for number in numbers if number.value is not None]


def notes_of(analysis: Analysis) -> list[str]:
    """Every caveat of an analysis: of all of it, then of its parts."""
    parts = (analysis.get(part) or {} for part in ("rank", "overlap", "dimensions", "roles", "task", "causal"))
    return list(dict.fromkeys([*analysis["notes"], *(note for part in parts for note in part.get("notes", []))]))


def concept_report(analysis: Analysis, report: Report | None = None) -> Report:
    """The page of one analysis; its sections are added to `report` when there is one already."""
    subject, texts = analysis["subject"], analysis["texts"]
    kind = subject["kind"]
    if report is None:
        sizes = f"{texts['mean_tokens']:.0f} tokens and {texts['mean_concepts']:.0f} {kind} in each (mean)"
        report = Report(f"What the {kind} of {subject['name']} are", f"{texts['count']:,} {texts['source']}, {sizes}")
    pictures, numbers = figures_of(analysis), key_numbers(analysis)
    cards, rest = numbers[:_CARDS], numbers[_CARDS:]
    report.section(f"The {kind} in short").numbers(*cards).notes(analysis["notes"])
    report.table(["figure", "value"], [[number.label, number.value] for number in rest])
    for add in (_losses, _rank, _correlation, _dimensions, _attention, _roles, _task, _causal, _training, _health):
        add(report, analysis, pictures)
    return report


def write_analysis(analysis: Analysis, folder: str | Path) -> Path:
    """Write analysis.json, figures/*.svg and report.html; returns the page.

    Raises:
        OSError: the folder cannot be written.
    """
    folder = Path(folder)
    write_atomically(folder / "analysis.json", json.dumps(analysis, allow_nan=False) + "\n")
    for name, figure in figures_of(analysis).items():
        write_atomically(folder / "figures" / f"{name}.svg", to_svg(figure))
    return concept_report(analysis).write(folder / "report.html")


def read_analysis(path: str | Path) -> Analysis:
    """Read analysis.json, or the one in a folder."""
    path = Path(path) / "analysis.json" if Path(path).is_dir() else Path(path)
    try:
        analysis = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); run the analysis first") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        analysis = None
    if not isinstance(analysis, dict) or "subject" not in analysis:
        raise UserError(f"{path}: not an analysis; run the analysis again")
    return analysis


Pictures = dict[str, Figure]


def _losses(report: Report, analysis: Analysis, pictures: Pictures) -> None:
    if "loss" in pictures:
        report.section("Loss").figure(pictures["loss"], "Loss over training, from the run's own record.")


def _rank(report: Report, analysis: Analysis, pictures: Pictures) -> None:
    rank = analysis["rank"]
    if "spectrum" not in pictures:
        return
    report.section("Effective rank").prose(
        "How many directions the concepts of one text use: exp of the entropy of the singular values of the text's "
        "C × D matrix, centred over its concepts and normalised to sum 1 (Roy & Vetterli 2007), averaged over "
        f"texts. Here {rank['effective_rank']:.1f}; isotropic noise of the same shape reaches "
        f"{rank['noise_ceiling']:.1f}. The content rank is the same after each slot's own mean over texts is taken out."
    ).notes(rank["notes"])
    report.figure(pictures["spectrum"], "A steeper line means fewer directions. The noise line is the ceiling.")
    if rank["variance"]:
        shares = rank["variance"]
        rows = [
            ["fixed differences between slots, the same in every text", shares["slot"]],
            ["what all concepts of a text share", shares["text"]],
            ["what one concept says about one text", shares["interaction"]],
        ]
        report.table(["variance", "share"], rows, "Where the variance of the states lies")


def _correlation(report: Report, analysis: Analysis, pictures: Pictures) -> None:
    if "correlation" not in pictures:
        return
    overlap = analysis["overlap"]
    report.section("Correlation between concepts").notes(overlap["notes"])
    report.figure(
        pictures["correlation"],
        "Pearson correlation over all texts and dimensions. A vector that all concepts share counts as agreement on "
        "the left and not on the right. White: unknown (absent or dead).",
    )
    if overlap["raw"]["duplicates"]:
        more = overlap["raw"]["duplicate_pairs"] - len(overlap["raw"]["duplicates"])
        caption = "Duplicates (|r| of 0.95 or more)" + (f", and {more:,} more pairs" if more else "")
        report.table(["concept", "duplicate of", "r"], [[b, a, r] for a, b, r in overlap["raw"]["duplicates"]], caption)


def _dimensions(report: Report, analysis: Analysis, pictures: Pictures) -> None:
    if "dimensions" not in pictures:
        return
    use = analysis["dimensions"]
    report.section("Use of dimensions").prose(
        f"Of {use['width']} dimensions {100 * use['share_above_floor']:.0f} % vary by more than 1 % of the mean "
        f"variance; {use['directions_for_90']} directions hold 90 % of the variance; the participation ratio is "
        f"{use['participation_ratio']:.1f}."
    ).notes(use["notes"]).figure(pictures["dimensions"], "Eigenvalues of the covariance of all concept states.")


def _attention(report: Report, analysis: Analysis, pictures: Pictures) -> None:
    attention = analysis["attention"]
    if not attention:
        return
    last = attention["last"]
    report.section("What concepts attend to").prose(
        f"In the last of {attention['reads']} reads, {last['position_lookups']} concepts look by position (the same "
        f"places in every text), {last['content_lookups']} by content, and {last['no_lookup']} everywhere alike. "
        f"Special tokens receive {100 * last['mean_special_share']:.0f} % of the attention."
    ).notes(last["notes"])
    report.figure(pictures["position"], "Attention by position, and by distance from each concept's own centre.")
    entropies = [[number, value] for number, value in enumerate(attention["mean_entropy_by_read"], start=1)]
    report.table(["read", "entropy / ln n"], entropies, "Entropy of a head's attention; 1 is everywhere alike")
    for name, figure in pictures.items():
        if name.startswith("sentence-"):
            report.figure(figure, "The sharpest concepts and a few others; each row sums to 1 over the whole text.")


def _roles(report: Report, analysis: Analysis, pictures: Pictures) -> None:
    roles = analysis.get("roles")
    if not roles:
        return
    report.section("Word classes").notes(roles["notes"])
    if "word-classes" not in pictures:
        return
    report.prose(
        f"{roles['selective_concepts']} concepts attend to some word class more than chance, "
        f"{roles['significant_pairs']} of {roles['pairs']} pairs at a false discovery rate of 5 %. With shuffled "
        f"tags the same test finds {roles['significant_pairs_shuffled']:.1f}."
    ).figure(pictures["word-classes"], f"{roles['words']:,} words of {roles['sentences']:,} tagged sentences.")
    rows = [[role["concept"], role["class"], role["lift"], role["q"]] for role in roles["roles"][:12]]
    report.table(["concept", "word class", "lift", "corrected p"], rows, "The strongest preferences")


def _task(report: Report, analysis: Analysis, pictures: Pictures) -> None:
    task = analysis.get("task")
    if not task:
        return
    report.section(f"Which concepts carry {task['name']}").notes(task["notes"])
    if "task" not in pictures:
        return
    report.prose(
        "How much of a concept's variance over texts the label explains (adjusted R² over all its dimensions; 0 where "
        f"the label says nothing). {len(task['carriers'])} of {task['judged']} concepts are above the threshold, which "
        f"the best concept under shuffled labels passes in 5 of 100 shufflings. {task['texts']:,} texts, no training."
    ).figure(pictures["task"], "Carrying a label is not using it: see the loss added when a concept is taken away.")
    added = ((analysis.get("causal") or {}).get("each") or {}).get("mean") or []
    rows = [[c, task["shares"][c], added[c] if c < len(added) else None] for c in task["carriers"][:12]]
    loss = (analysis.get("causal") or {}).get("loss", "loss")
    report.table(["concept", "share explained", f"{loss} added"], rows, "The strongest carriers")


def _causal(report: Report, analysis: Analysis, pictures: Pictures) -> None:
    causal = analysis.get("causal")
    if not causal:
        return
    report.section("Does the answer use the concepts?").prose(
        f"The {causal['loss']} is {causal['base_loss']:.3f} over {causal['labels']:,} labels. What follows is added "
        "when concepts are changed wherever tokens or the head hear them. Near zero for all at once: the answer does "
        "not need them."
    ).notes(causal["notes"])
    names = {"zero": "set to zero", "shuffle": "shuffled between texts", "mean": "replaced by their mean"}
    rows = [[name, causal["all"][kind]["added"], causal["all"][kind]["standard_error"]] for kind, name in names.items()]
    report.table(["all concepts", "loss added", "standard error"], rows)
    if "causal" in pictures:
        report.figure(pictures["causal"], f"One concept at a time, over {causal['each_labels']:,} labels.")


def _training(report: Report, analysis: Analysis, pictures: Pictures) -> None:
    if "training" in pictures:
        report.section("Over training").figure(pictures["training"], "The same figures at each checkpoint of the run.")


def _health(report: Report, analysis: Analysis, pictures: Pictures) -> None:
    rows = [[check["name"], check["verdict"], check["evidence"]] for check in analysis["health"]["checks"]]
    report.section("Health").table(["check", "verdict", "evidence"], rows)

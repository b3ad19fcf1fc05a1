"""The numbers of a finished run by the names in a plan, and which of these names a run will have."""

import math
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from concept_encoder.lab.verbs import Verb

STREAMED = ("loss", "eval_loss", "tokens_per_second", "grad_norm", "learning_rate")  # of metrics.jsonl
_PRETRAINING = (
    "eval_loss", "unigram_loss", "steps", "tokens_seen", "tokens_per_second", "parameters", "flops_per_token",
    "concepts",
)  # fmt: skip
ANALYSIS = (  # the key figures, see analysis/key_figures.py
    "rank.effective_rank", "rank.share_of_ceiling", "rank.content_share_of_ceiling", "rank.common_share",
    "overlap.raw.mean_absolute", "dimensions.participation_ratio", "rank.noise_ceiling", "rank.content_rank",
    "rank.sum_over_max", "rank.variance.between_texts", "rank.rankme", "rank.rankme_centred",
    "overlap.raw.max_absolute", "overlap.content.mean_absolute", "overlap.raw.duplicated_concepts", "overlap.dead",
    "dimensions.share_above_floor", "dimensions.directions_for_90", "attention.last.mean_entropy",
    "attention.last.position_lookups", "attention.last.content_lookups", "roles.selective_concepts", "task.carriers",
    "causal.all.zero.added", "causal.all.shuffle.added", "causal.all.mean.added", "texts.tokens_per_concept",
)  # fmt: skip
_BENCH = (
    "tokens_per_second", "texts_per_second", "seconds", "fastest", "slowest", "ratio", "flops_per_token", "mfu",
    "memory_bytes",
)  # fmt: skip
_PERPLEXITY = ("per_token", "per_word", "bits_per_byte")
_CORRELATIONS = ("pearson", "spearman")
_OF_OWN_FILES = ("accuracy", "macro_f1", "entity_f1", *_CORRELATIONS)
_CONTROLS = ("shuffled", "zeroed")
FEWEST_AVERAGED = 7  # tasks of the shortest average, see evaluation/averages.py: a run with fewer has none


def metrics_of(verb: Verb, result: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a result by the names in a plan: `eval_loss`, `mnli.accuracy`, `rank.content_rank`."""
    if verb.name == "bench":  # bert.512.tokens_per_second
        rows = result.get("rows") or []
        return {
            key: value
            for row in rows
            for key, value in _numbers(row, f"{row['model']}.{row['length']}.".replace(":", "-"))
        }
    if verb.name == "evaluate":  # of several heads, each by its name: cls_query.mnli.accuracy
        systems, found = result.get("systems") or {}, {}
        lost = {(each["system"], each["task"]) for each in result.get("choices") or () if each.get("diverged")}
        for system, each in systems.items():
            start = f"{system}." if len(systems) > 1 else ""
            for task, scores in each["tasks"].items():
                found |= {} if (system, task) in lost else _scores(f"{start}{task}", scores)
            if system not in {name for name, _ in lost}:  # seeds that survive do not stand for all
                found |= dict(_numbers(each["averages"], f"{start}average."))
        return found
    if verb.name != "finetune":
        return dict(_numbers(result, ""))
    scores = _scores(result.get("task", "task"), result)
    for task, also in (result.get("also") or {}).items():
        scores |= _scores(task, also)
    return scores


def reported(verb: Verb, sections: Mapping[str, Any]) -> list[str]:
    """The names of the numbers that a run with these sections leaves; `*` stands for what is known only afterwards."""
    options = sections.get("options") or {}
    if verb.name == "finetune":
        data = sections.get("data") or {}
        tasks = [*_listed(data.get("task")), *_listed(data.get("also"))]
        return list(_task_scores(tasks, own_files=data.get("train") is not None))
    return {"pretrain": lambda _: [*_PRETRAINING], "analyze": lambda _: [*ANALYSIS],
            "evaluate": _of_evaluate, "probe": _of_probe, "bench": _of_bench}[verb.name](options)  # fmt: skip


def reports(names: Iterable[str], metric: str) -> bool:
    """Whether a metric is among `reported` names."""
    return any(fnmatchcase(metric, name) for name in names)


def _of_evaluate(options: Mapping[str, Any]) -> list[str]:
    from concept_encoder.data.tasks.table import SUITES

    tasks = [*SUITES.get(str(options.get("suite")), ()), *_listed(options.get("task"))]
    own = any(each.startswith("data.train=") for each in _listed(options.get("set")))
    names = [*_task_scores(tasks, own_files=own), *["average.*"] * (len(tasks) >= FEWEST_AVERAGED)]
    heads, after_mnli = _listed(options.get("head")) or ["*"], bool(options.get("mnli_first"))
    if len(heads) == 1 and not after_mnli:
        return names
    systems = [*heads, *(f"{head}-mnli-first" for head in heads if after_mnli)]
    return [f"{system}.{name}" for system in systems for name in names]


def _of_probe(options: Mapping[str, Any]) -> list[str]:
    from concept_encoder.data.tasks.table import TASKS

    probes, tasks, mteb = (_listed(options.get(name)) for name in ("probe", "task", "mteb"))
    names = [f"mteb.{task}.main_score" for task in mteb]
    if "blimp" in probes or not (probes or tasks or mteb):
        names += [f"blimp.{each}accuracy" for each in ("", "paradigms.*.", *(f"{c}." for c in _CONTROLS))]
        names += ["blimp.ties"]
    if "perplexity" in probes:
        systems = ("", *(f"{name}." for name in ("unigram", *_CONTROLS)))
        names += [f"perplexity.{each}{field}" for each in systems for field in _PERPLEXITY]
    if "sts" in probes:
        names += [f"sts.{task}.*.{metric}" for task in ("stsb", "sick-relatedness") for metric in _CORRELATIONS]
    return names + [f"linear.{t}.*.{metric}" for t in tasks if t in TASKS for metric in TASKS[t].metrics]


def _of_bench(options: Mapping[str, Any]) -> list[str]:
    models, lengths = (str(options.get(name, "*")).replace(":", "-").split(",") for name in ("models", "lengths"))
    return [f"{model}.{length}.{field}" for model in models for length in lengths for field in _BENCH]


def _task_scores(tasks: Iterable[str], own_files: bool) -> Iterator[str]:
    from concept_encoder.data.tasks.table import TASKS

    known = [(task, TASKS[task].metrics) for task in tasks if task in TASKS]
    for task, metrics in [*known, *([("*", _OF_OWN_FILES)] if own_files else [])]:
        for system in ("", *(f"{control}." for control in _CONTROLS), "baseline.*."):
            yield from (f"{task}.{system}{metric}" for metric in metrics)


def _scores(task: str, result: Mapping[str, Any]) -> dict[str, float]:
    scores = dict(_numbers(result.get("scores") or {}, f"{task}."))
    for control, found in (result.get("controls") or {}).items():  # "concepts shuffled" -> mnli.shuffled.accuracy
        scores |= dict(_numbers(found, f"{task}.{control.split()[-1]}."))
    for baseline, found in (result.get("baselines") or {}).items():
        scores |= dict(_numbers(found, f"{task}.baseline.{'-'.join(baseline.split(' (')[0].split())}."))
    return scores


def _numbers(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    """Every finite number below; a list of concepts counts its members."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            yield f"{prefix}{name}", float(len(value))
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            yield f"{prefix}{name}", float(value)


def _listed(value: Any) -> list[str]:
    return [] if value is None else [str(each) for each in (value if isinstance(value, list) else [value])]

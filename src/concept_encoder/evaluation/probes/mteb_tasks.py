"""Tasks of the Massive Text Embedding Benchmark, by the package `mteb` itself (`pip install "concept-encoder[mteb]"`).

Source: Muennighoff et al. 2023 (arXiv:2210.07316).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mteb
from mteb.abstasks.abstask import AbsTask
from sentence_transformers import SentenceTransformer

from concept_encoder.data.hub import check_hub
from concept_encoder.errors import UserError, nearest
from concept_encoder.evaluation.sentence_embedding import sentence_transformer
from concept_encoder.model import ConceptEncoderConfig
from concept_encoder.model.loading import is_ours, resolve_checkpoint

RANDOM = "mteb/baseline-random-encoder"


def tasks_named(names: Sequence[str]) -> list[AbsTask]:
    """Tasks of the benchmark, whose data the hub has.

    Raises:
        UserError: no such task, or its data set is out of reach.
    """
    try:
        tasks = list(mteb.get_tasks(tasks=list(names)))
    except (KeyError, ValueError):
        known = [task.metadata.name for task in mteb.get_tasks()]
        unknown = next((name for name in names if name not in known), names[0])
        raise UserError(f"mteb: no task {unknown!r}; {nearest(unknown, known)}") from None
    for task in tasks:
        check_hub(task.metadata.dataset["path"], "dataset", "mteb reads its data sets from the hub alone")
    return tasks


def embedding_model(checkpoint: str | Path) -> SentenceTransformer:
    """The mean of the concepts of one of ours, of the decoded tokens without concepts; any other model as it is."""
    if not is_ours(checkpoint):
        return SentenceTransformer(str(checkpoint))
    has_concepts = ConceptEncoderConfig.from_pretrained(resolve_checkpoint(checkpoint)).has_concepts
    return sentence_transformer(checkpoint, "concept_pool" if has_concepts else "via_decoder")


def score_mteb(model: SentenceTransformer, tasks: Sequence[AbsTask]) -> dict[str, dict[str, Any]]:
    """The main score of each task, its name, and what random vectors score (JSON-able)."""
    systems = {"main_score": model, "random": mteb.get_model(RANDOM)}
    report: dict[str, dict[str, Any]] = {task.metadata.name: {"metric": task.metadata.main_score} for task in tasks}
    for name, system in systems.items():
        for result in mteb.evaluate(system, tasks, cache=None, show_progress_bar=False).task_results:
            report[result.task_name][name] = float(result.get_score())
    return report

"""One call from a checkpoint and texts to every figure of this room, as a dictionary that JSON can hold.

analysis = analyze("runs/mine", texts)
write_analysis(analysis, "runs/mine/analysis")  # present.py: analysis.json, figures/*.svg, report.html
"""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from concept_encoder.analysis import causal as causality
from concept_encoder.analysis.attention import attention_report
from concept_encoder.analysis.capture import Capture, Example, Progress, capture
from concept_encoder.analysis.carriers import carriers
from concept_encoder.analysis.health import check_health, health_report
from concept_encoder.analysis.material import Material, run_of
from concept_encoder.analysis.overlap import dimension_use, overlap_report
from concept_encoder.analysis.rank import rank_report
from concept_encoder.analysis.roles import selectivity, word_attention
from concept_encoder.analysis.subject import Kind, Subject, Tokenized, load_subject
from concept_encoder.data.conllu import TaggedSentence
from concept_encoder.errors import UserError
from concept_encoder.model import (
    ConceptEncoderForMaskedLM,
    ConceptEncoderForSequenceClassification,
    ConceptEncoderForTokenClassification,
)
from concept_encoder.model.loading import list_checkpoints
from concept_encoder.records import read_metrics

FORMAT = 1  # of analysis.json
EXAMPLE_CONCEPTS = 8


def analyze(
    checkpoint: str | Path | Subject,
    texts: Sequence[str] | Material,
    *,
    states: Kind = "concepts",
    sentences: Sequence[TaggedSentence] | None = None,
    causal_texts: int = 64,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict:
    """Analyse a checkpoint (or a loaded `Subject`) on held-out texts; nothing is trained, all is deterministic.

    Args:
        checkpoint: a checkpoint, or a run (its last checkpoint); with `states="tokens"` any transformers encoder.
        texts: 1,000 or more (what a smaller number is too few for is None and noted), or the examples of a task, for
            which concepts carry it.
        sentences: with gold tags (`read_conllu`), for word classes; those of a task with tags unless given.
        causal_texts: how many texts ask for the loss without concepts; 0 leaves that part out.

    Raises:
        UserError: see `load_subject` and `tokenize`.
    """
    subject = checkpoint if isinstance(checkpoint, Subject) else load_subject(checkpoint, states)
    material = texts if isinstance(texts, Material) else Material.of_texts(texts)
    captured = read_material(subject, material, progress=progress)
    analysis: dict = {
        "format": FORMAT,
        "subject": _describe(subject),
        "texts": {"source": material.source, **_describe_texts(captured)},
        "health": health_report(check_health(subject, captured)),
        "notes": _truncation_notes(captured),
    }
    finite_T = _finite(captured)
    if not finite_T.all():
        broken = int((~finite_T).sum())
        analysis["notes"].append(f"{broken} texts with NaN or infinite states are left out of the geometry")
    analysis |= geometry(captured.z_TCD[finite_T], captured.mask_TC[finite_T], seed=seed)
    analysis["attention"] = _attention(subject, captured) if finite_T.all() else None
    sentences = material.sentences if sentences is None else sentences
    if sentences is not None and captured.reads:
        analysis["roles"] = selectivity(*word_attention(subject, sentences, progress), seed=seed)
    elif sentences is not None:
        analysis["notes"].append("word classes are left out: they are asked of concepts that read tokens by attention")
    if material.task is not None and finite_T.all():
        analysis["task"] = task_report(subject, material, captured, seed=seed)
    if causal_texts and finite_T.all():
        analysis["causal"] = _causal(subject, material, captured.tokenized, causal_texts, seed, progress)
        if analysis["causal"] is None and material.task is not None and subject.kind == "concepts":
            unasked = f"the checkpoint's head does not answer {material.task.name}: no loss without concepts"
            analysis["notes"].append(unasked)
    if subject.folder and (losses := loss_history(run_of(subject.folder))):
        analysis["losses"] = losses
    return analysis


def read_material(
    subject: Subject, material: Material, *, examples: int = 3, progress: Progress | None = None
) -> Capture:
    """One pass over the texts. Where the head encodes the texts of a pair apart, they are rows next to each other."""
    limit = material.max_length and min(material.max_length, subject.max_length)
    texts, pairs = material.texts, material.pairs
    if pairs is not None and subject.separate_texts:
        texts, pairs = [text for both in zip(texts, pairs) for text in both], None
    return capture(subject, texts, pairs=pairs, max_length=limit, examples=examples, progress=progress)


def task_report(subject: Subject, material: Material, captured: Capture, *, seed: int = 0) -> dict | None:
    """Which concepts carry the task's label, see `carriers`; None where every word has a label of its own."""
    task = material.task
    if task.kind == "token_classification":
        return None
    z_TCD, mask_TC = captured.z_TCD, captured.mask_TC
    if len(z_TCD) == 2 * len(material.texts):  # the texts of a pair apart: heads compare them, and so does this
        z_TCD = (z_TCD[::2] - z_TCD[1::2]).abs()
        mask_TC = mask_TC[::2] & mask_TC[1::2]
    names = task.label_names
    found = carriers(z_TCD, task.validation.labels, mask_TC, classes=names and len(names), seed=seed)
    return {"name": task.name, "kind": task.kind, "labels": names, **found}


def geometry(z_TCD: Tensor, mask_TC: Tensor | None = None, *, seed: int = 0) -> dict:
    """Rank, overlap and dimension use of states [T, C, D]; None where no text is left."""
    if not len(z_TCD):
        return {"rank": None, "overlap": None, "dimensions": None}
    return {
        "rank": rank_report(z_TCD, mask_TC, seed=seed),
        "overlap": overlap_report(z_TCD, mask_TC),
        "dimensions": dimension_use(z_TCD, mask_TC),
    }


def geometry_over_training(
    run: str | Path,
    texts: Sequence[str] | Material,
    *,
    states: Kind = "concepts",
    progress: Progress | None = None,
) -> list[dict]:
    """The geometry of each checkpoint of a run on the same texts, by step.

    Raises:
        UserError: the run has no checkpoints, or one is damaged.
    """
    folders = list_checkpoints(run)
    if not folders:
        raise UserError(f"{run}: no checkpoints/checkpoint-* to follow; give a run's folder")
    material = texts if isinstance(texts, Material) else Material.of_texts(texts)
    points = []
    for done, folder in enumerate(folders, start=1):
        captured = read_material(load_subject(folder, states), material, examples=0)
        found = geometry(captured.z_TCD[_finite(captured)], captured.mask_TC[_finite(captured)])
        points.append({"step": int(folder.name.rpartition("-")[2]), **training_point(found)})
        if progress:
            progress("checkpoints", done, len(folders))
    return points


def training_point(found: dict) -> dict:
    """The shares (0 to 1) that are followed over training; None where the states are not finite."""
    rank, overlap, dimensions = (found[part] or {} for part in ("rank", "overlap", "dimensions"))
    ratio = dimensions.get("participation_ratio")
    return {
        "effective rank / ceiling": rank.get("share_of_ceiling"),
        "content rank / ceiling": rank.get("content_share_of_ceiling"),
        "one common vector": rank.get("common_share"),
        "variance between texts": (rank.get("variance") or {}).get("between_texts"),
        "mean |correlation|": (overlap.get("raw") or {}).get("mean_absolute"),
        "participation ratio / width": ratio and round(ratio / dimensions["width"], 5),
    }


def loss_history(run: str | Path) -> dict[str, list[list[float]]]:
    """Training and held-out loss by step [[step, loss], …], from a run's metrics.jsonl."""
    found: dict[str, list[list[float]]] = {}
    for record in read_metrics(run):
        for name, field in (("training", "loss"), ("held out", "eval_loss")):
            if isinstance(record.get(field), int | float) and math.isfinite(record[field]) and "step" in record:
                found.setdefault(name, []).append([record["step"], record[field]])
    return found


def _finite(captured: Capture) -> Tensor:
    """Which texts have states without NaN and infinities [T]."""
    return torch.isfinite(captured.z_TCD).flatten(1).all(1)


def _describe(subject: Subject) -> dict:
    config = subject.model.config
    return {
        "name": subject.name,
        "checkpoint": str(subject.folder) if subject.folder else None,
        "architecture": type(subject.model).__name__,
        "kind": subject.kind,
        "width": config.hidden_size,
        "layers": list(getattr(config, "layer_types", None) or []),
        "concept_source": getattr(config, "concept_source", None),
        "decoder": getattr(config, "decoder", None) if subject.kind == "concepts" else None,
        "parameters": sum(weight.numel() for weight in subject.model.parameters()),
    }


def _describe_texts(captured: Capture) -> dict:
    tokens = [len(ids) for ids in captured.tokenized.ids]
    mean_tokens, mean_concepts = sum(tokens) / len(tokens), float(captured.mask_TC.sum(1).double().mean())
    return {
        "count": len(tokens),
        "truncated": captured.tokenized.truncated,
        "max_length": captured.tokenized.max_length,
        "mean_tokens": round(mean_tokens, 3),
        "mean_concepts": round(mean_concepts, 3),
        "tokens_per_concept": round(mean_tokens / mean_concepts, 4),
    }


def _truncation_notes(captured: Capture) -> list[str]:
    cut = captured.tokenized.truncated
    limit = captured.tokenized.max_length
    return [f"{cut} of {len(captured.tokenized)} texts are longer than {limit} tokens and were cut"] if cut else []


def _attention(subject: Subject, captured: Capture) -> dict | None:
    if not captured.reads:
        return None
    last = captured.reads[-1]
    return {
        "reads": len(captured.reads),
        "mean_entropy_by_read": [attention_report(tally)["mean_entropy"] for tally in captured.reads],
        "last": attention_report(last, subject.own_positions(*last.count_CN.shape)),
        "examples": [_example(example, last.entropy()) for example in captured.examples],
    }


def _example(example: Example, entropy_C: Tensor) -> dict:
    """A sentence with at most eight of its concepts: the four sharpest, and four spread evenly over the others."""
    half = EXAMPLE_CONCEPTS // 2
    order = torch.argsort(entropy_C[: example.concepts], stable=True).tolist()
    others = sorted(order[half:])
    concepts = sorted(order[:half] + others[:: max(1, -(-len(others) // half))])
    rows = [[round(value, 5) for value in row] for row in example.attention_CN[concepts].tolist()]
    return {"text": example.text, "tokens": example.tokens, "concepts": concepts, "attention": rows}


def _causal(
    subject: Subject,
    material: Material,
    tokenized: Tokenized,
    count: int,
    seed: int,
    progress: Progress | None,
) -> dict | None:
    """The loss of the checkpoint's own head without concepts, on the first examples; None where it has no labels."""
    if subject.kind != "concepts":
        return None
    task, model = material.task, subject.model
    tokenized = tokenized.first(count * (2 if len(tokenized) == 2 * len(material.texts) else 1))
    if isinstance(model, ConceptEncoderForMaskedLM):
        loss, made = "masked-LM loss", causality.masked_batches(subject, tokenized, seed=seed)
    elif task is None or not _answers(model, material):
        return None
    elif isinstance(model, ConceptEncoderForTokenClassification):
        words, tags = task.validation.words[:count], task.validation.labels[:count]
        loss, made = f"loss on {task.name}", causality.tagged_batches(subject, tokenized, words, tags)
    else:
        labels = task.validation.labels[:count]
        loss, made = f"loss on {task.name}", causality.labelled_batches(subject, tokenized, labels)
    return {"loss": loss, **causality.dependence(subject, made, progress=progress)}


def _answers(model: PreTrainedModel, material: Material) -> bool:
    """Whether the checkpoint's head answers this very task: the same kind, the same classes in the same order."""
    task = material.task
    kinds = {
        "classification": ConceptEncoderForSequenceClassification,
        "regression": ConceptEncoderForSequenceClassification,
    }
    if not isinstance(model, kinds.get(task.kind, ConceptEncoderForTokenClassification)):
        return False
    if isinstance(model, ConceptEncoderForSequenceClassification) and model.pool.separate_texts and not material.pairs:
        return False
    names = [model.config.id2label[number] for number in range(model.config.num_labels)]
    return names == (task.label_names or ["score"])

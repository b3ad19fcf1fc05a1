"""One call from a checkpoint and texts to every figure of this room, as a dictionary that JSON can hold.

analysis = analyze("runs/mine", texts)
write_analysis(analysis, "runs/mine/analysis")      # analysis.json, figures/*.svg, report.html
(present.py)
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from concept_encoder.analysis import causal as causality
from concept_encoder.analysis.attention import attention_report
from concept_encoder.analysis.capture import Capture, Example, Progress, capture
from concept_encoder.analysis.health import check_health, health_report
from concept_encoder.analysis.overlap import dimension_use, overlap_report
from concept_encoder.analysis.rank import rank_report
from concept_encoder.analysis.roles import selectivity, word_attention
from concept_encoder.analysis.subject import Kind, Subject, load_subject
from concept_encoder.data.conllu import TaggedSentence
from concept_encoder.errors import UserError
from concept_encoder.model.loading import list_checkpoints
from concept_encoder.records import read_metrics

FORMAT = 1  # of analysis.json
EXAMPLE_CONCEPTS = 8


def analyze(
    checkpoint: str | Path | Subject,
    texts: Sequence[str],
    *,
    states: Kind = "concepts",
    sentences: Sequence[TaggedSentence] | None = None,
    labels: Sequence[int | float] | None = None,
    max_length: int | None = None,
    causal_texts: int = 64,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict:
    """Analyse a checkpoint (or a loaded `Subject`) on held-out texts; nothing is trained, all is
    deterministic.

    Args:
        checkpoint: a checkpoint, or a run (its last checkpoint); with `states="tokens"` any transformers
        encoder.
        texts: 1,000 or more; what a smaller number is too few for is None and noted.
        sentences: with gold tags (`conllu.read_conllu`), for word classes.
        labels: one a text, for the causal part of a checkpoint that classifies texts.
        causal_texts: how many texts ask for the loss without concepts; 0 leaves that part out.
    Raises:
        UserError: see `load_subject` and `tokenize`.
    """
    subject = checkpoint if isinstance(checkpoint, Subject) else load_subject(checkpoint, states)
    if labels is not None and len(labels) != len(texts):
        raise UserError(f"labels: {len(labels)} for {len(texts)} texts; give exactly one a text")
    kept = [index for index, text in enumerate(texts) if text.strip()]
    texts, labels = [texts[index] for index in kept], labels and [labels[index] for index in kept]
    captured = capture(subject, texts, max_length=max_length, progress=progress)
    analysis: dict = {
        "format": FORMAT,
        "subject": _describe(subject),
        "texts": _describe_texts(captured),
        "health": health_report(check_health(subject, captured)),
        "notes": _truncation_notes(captured),
    }
    finite_T = torch.isfinite(captured.z_TCD).flatten(1).all(1)
    if not finite_T.all():
        broken = int((~finite_T).sum())
        analysis["notes"].append(f"{broken} texts with NaN or infinite states are left out of the geometry")
    analysis |= geometry(captured.z_TCD[finite_T], captured.mask_TC[finite_T], seed=seed)
    analysis["attention"] = _attention(subject, captured) if finite_T.all() else None
    if sentences is not None:
        analysis["roles"] = _roles(subject, sentences, seed, progress)
    if causal_texts and finite_T.all():
        analysis["causal"] = _causal(subject, texts[:causal_texts], labels and labels[:causal_texts], seed, progress)
    if subject.folder and (losses := loss_history(subject.folder.parent.parent)):
        analysis["losses"] = losses
    return analysis


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
    texts: Sequence[str],
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
    points = []
    for done, folder in enumerate(folders, start=1):
        captured = capture(load_subject(folder, states), texts, examples=0)
        found = geometry(captured.z_TCD, captured.mask_TC)
        points.append({"step": int(folder.name.rpartition("-")[2]), **training_point(found)})
        if progress:
            progress("checkpoints", done, len(folders))
    return points


def training_point(found: dict) -> dict:
    """The shares (0 to 1) that are followed over training."""
    rank, overlap, dimensions = found["rank"], found["overlap"], found["dimensions"]
    ratio = dimensions["participation_ratio"]
    return {
        "effective rank / ceiling": rank.get("share_of_ceiling"),
        "content rank / ceiling": rank.get("content_share_of_ceiling"),
        "one common vector": rank.get("common_share"),
        "variance between texts": (rank.get("variance") or {}).get("between_texts"),
        "mean |correlation|": overlap["raw"]["mean_absolute"],
        "participation ratio / width": ratio and round(ratio / dimensions["width"], 5),
    }


def loss_history(run: str | Path) -> dict[str, list[list[float]]]:
    """Training and held-out loss by step [[step, loss], …], from a run's metrics.jsonl."""
    found: dict[str, list[list[float]]] = {}
    for record in read_metrics(run):
        for name, field in (("training", "loss"), ("held out", "eval_loss")):
            if isinstance(record.get(field), int | float) and "step" in record:
                found.setdefault(name, []).append([record["step"], record[field]])
    return found


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
    """A sentence with at most eight of its concepts: the four sharpest, and four spread evenly over the
    others.
    """
    half = EXAMPLE_CONCEPTS // 2
    order = torch.argsort(entropy_C[: example.concepts], stable=True).tolist()
    others = sorted(order[half:])
    concepts = sorted(order[:half] + others[:: max(1, -(-len(others) // half))])
    rows = [[round(value, 5) for value in row] for row in example.attention_CN[concepts].tolist()]
    return {"text": example.text, "tokens": example.tokens, "concepts": concepts, "attention": rows}


def _roles(subject: Subject, sentences: Sequence[TaggedSentence], seed: int, progress: Progress | None) -> dict | None:
    if not subject.has_reads:
        return None
    return selectivity(*word_attention(subject, sentences, progress), seed=seed)


def _causal(
    subject: Subject, texts: list[str], labels: Sequence[int | float] | None, seed: int, progress: Progress | None
) -> dict | None:
    architecture = type(subject.model).__name__
    if subject.kind != "concepts":
        return None
    if architecture.endswith("ForMaskedLM"):
        made = causality.masked_batches(subject, texts, seed=seed)
    elif architecture.endswith("ForSequenceClassification") and labels is not None:
        made = causality.labelled_batches(subject, texts, labels)
    else:
        return None
    return causality.dependence(subject, made, each_batches=1, progress=progress)

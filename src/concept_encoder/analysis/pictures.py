"""The figures of an analysis, by name; each is there when the analysis has the data for it."""

from typing import Any

from matplotlib.figure import Figure

from concept_encoder.analysis import figures

Analysis = dict[str, Any]


def figures_of(analysis: Analysis) -> dict[str, Figure]:
    """Every figure that this analysis has data for, in the order of the page."""
    made: dict[str, Figure] = {}
    if analysis.get("losses"):
        made["loss"] = figures.loss_curves(analysis["losses"])
    made |= _geometry(analysis)
    if analysis.get("attention"):
        made |= _attention(analysis["attention"])
    if (roles := analysis.get("roles")) and any(lift is not None for row in roles.get("lift", ()) for lift in row):
        made["word-classes"] = figures.role_map(roles["lift"], roles["classes"], roles["significant"])
    if (causal := analysis.get("causal")) and causal.get("each"):
        added = [value or 0.0 for value in causal["each"]["mean"]]
        made["causal"] = figures.concept_bars(added, "Replacing one concept by its mean", "loss added (nats per label)")
    if (task := analysis.get("task")) and task.get("shares"):
        shares = [value or 0.0 for value in task["shares"]]
        title, line = f"Which concepts carry {task['name']}", ("shuffled labels", task["threshold"])
        made["task"] = figures.concept_bars(shares, title, "share of variance explained", line)
    if points := analysis.get("training"):
        steps = [point["step"] for point in points]
        curves = {name: [point[name] for point in points] for name in points[0] if name != "step"}
        made["training"] = figures.geometry_over_training(steps, curves)
    return made


def _geometry(analysis: Analysis) -> dict[str, Figure]:
    rank, overlap, dimensions = analysis["rank"], analysis["overlap"], analysis["dimensions"]
    made: dict[str, Figure] = {}
    if rank and rank.get("spectrum"):
        spectra = {"states": rank["spectrum"]}
        spectra |= {"content": rank["content_spectrum"]} if rank.get("content_spectrum") else {}
        made["spectrum"] = figures.spectrum(spectra, rank["noise_spectrum"])
    if overlap:
        matrices = {"Raw: the states as they are": overlap["raw"]["matrix"]}
        if overlap["content"] and overlap["content"]["mean_absolute"] is not None:
            matrices["Content: slot means taken out"] = overlap["content"]["matrix"]
        made["correlation"] = figures.correlation_matrix(matrices)
    if dimensions and dimensions.get("spectrum"):
        made["dimensions"] = figures.dimension_spectrum({"states": dimensions["spectrum"]})
    return made


def _attention(attention: dict[str, Any]) -> dict[str, Figure]:
    last = attention["last"]
    made = {"position": figures.position_profile(last["mean_map"], last["distance_profile"], last["uniform"])}
    for number, example in enumerate(attention["examples"], start=1):
        made[f"sentence-{number}"] = figures.attention_over_tokens(
            example["tokens"], example["attention"], example["concepts"], f"Last read, text {example['text']}"
        )
    return made

"""The pictures of a plan's report: effects beside their claims, losses, and the gap to the published row over time."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from concept_encoder.lab.findings import Finding
from concept_encoder.lab.plan import Reference
from concept_encoder.lab.results import Metrics
from concept_encoder.lab.runs import Run
from concept_encoder.lab.store import State
from concept_encoder.records import read_metrics

_MOST_CURVES = 40
# colours and dashes go round together, so that lines are told apart in grey print too
_COLOURS = ("#0b3c6f", "#d55e00", "#009e73", "#7f7f7f", "#cc79a7", "#56b4e9")
_DASHES = ("-", "--", "-.", ":")
_MARKS = {"supported": "o", "refuted": "X", "undecided": "D"}  # told apart in grey print too


def effects(finding: Finding) -> Markup | None:
    """Each variant's effect with its interval, beside what was claimed; None without any."""
    rows = [row for row in finding.rows if row.verdict.effect is not None]
    claimed = finding.experiment.expect
    if not rows or claimed is None:
        return None
    fig, axes = _axes(height=1.0 + 0.32 * len(rows))
    for place, row in enumerate(reversed(rows)):
        verdict = row.verdict
        if verdict.low is not None and verdict.high is not None:
            axes.plot([verdict.low, verdict.high], [place, place], color=_COLOURS[0], linewidth=1.6)
        filled = "white" if verdict.word == "undecided" else _COLOURS[0]
        axes.plot(verdict.effect, place, _MARKS[verdict.word], color=_COLOURS[0], markerfacecolor=filled, markersize=7)
    axes.axvline(claimed.by, color=_COLOURS[1], linestyle="--", linewidth=1.2, label="claimed, at least")
    axes.set_yticks(range(len(rows)), [row.variant or finding.experiment.id for row in reversed(rows)])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel("effect, a factor" if claimed.relative else "effect, positive in the claimed direction")
    axes.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)
    return _svg(fig, "Effects with their intervals beside the claim")


def loss_curves(runs: Sequence[Run], states: Mapping[str, State]) -> Markup | None:
    """Held-out loss of an experiment's runs, a colour and dash for each variant; None without any."""
    variants = sorted({run.variant for run in runs})
    curves = []
    for run in runs:
        if run.verb.name != "pretrain" or not states[run.id].folder:
            continue
        records = read_metrics(states[run.id].folder)
        points = [(record["step"], record["eval_loss"]) for record in records if "eval_loss" in record]
        if points:
            curves.append((variants.index(run.variant), run.variant or run.experiment.id, points))
    if not curves:
        return None
    fig, axes = _axes()
    named: set[str] = set()
    for index, name, points in curves[:_MOST_CURVES]:
        style = {"color": _COLOURS[index % len(_COLOURS)], "linestyle": _DASHES[index % len(_DASHES)]}
        marker = "o" if len(points) < 3 else None
        axes.plot(*zip(*points), label=None if name in named else name, marker=marker, linewidth=1.4, **style)
        named.add(name)
    axes.set_xlabel("optimizer step")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylabel("held-out loss (nats)")
    axes.legend(frameon=False, fontsize=8)
    return _svg(fig, "Held-out loss against optimizer step")


def gap(
    reference: Reference, runs: Sequence[Run], states: Mapping[str, State], metrics: Mapping[str, Metrics]
) -> Markup | None:
    """What is missing to the published row, metric by metric, as runs finished; None before the first."""
    finished = sorted((run for run in runs if run.id in metrics), key=lambda run: states[run.id].ended or 0.0)
    fig, axes = _axes()
    first, drawn = None, 0
    for place, (metric, published) in enumerate(reference.metrics.items()):
        best, points = float("-inf"), []
        for run in finished:
            value, ended = metrics[run.id].get(metric), states[run.id].ended or 0.0
            if value is None:
                continue
            first = ended if first is None else min(first, ended)
            best = max(best, value)
            points.append((ended, published - best))
        if points:
            hours = [(ended - first) / 3600 for ended, _ in points]
            axes.step(
                [*hours, max(hours) + 0.02], [*(gap for _, gap in points), points[-1][1]], where="post", label=metric,
                color=_COLOURS[place % len(_COLOURS)], linestyle=_DASHES[place % len(_DASHES)],
            )  # fmt: skip
            drawn += 1
    if not drawn:
        return None
    axes.axhline(0, color="#444444", linewidth=0.9)
    axes.set_xlabel("hours since the first result")
    axes.set_ylabel(f"{reference.name} minus the best so far")
    axes.legend(frameon=False, fontsize=8)
    return _svg(fig, f"Gap to {reference.name} over time")


def _axes(height: float = 3.2) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    fig = Figure(figsize=(6.4, height), layout="constrained")
    FigureCanvasAgg(fig)
    axes = fig.subplots()
    axes.grid(color="#dddddd", linewidth=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return fig, axes


def _svg(fig: Any, label: str) -> Markup:
    from matplotlib import rc_context

    buffer = io.StringIO()
    # text as paths: names from a plan can be no markup inside a picture
    with rc_context({"svg.fonttype": "path", "text.parse_math": False}):
        fig.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    return Markup(svg.replace("<svg", Markup('<svg role="img" aria-label="{}"').format(label), 1))

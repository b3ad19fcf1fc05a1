"""The report of a plan: one self-contained HTML page, and the same as Markdown."""

import io
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from concept_encoder.lab.failures import mask
from concept_encoder.lab.findings import find
from concept_encoder.lab.plan import Plan, Reference
from concept_encoder.lab.progress import duration
from concept_encoder.lab.results import Metrics
from concept_encoder.lab.runs import Run
from concept_encoder.lab.store import State, Store
from concept_encoder.lab.verbs import metrics_of, read_result
from concept_encoder.records import read_metrics, write_atomically

_MOST_CURVES = 40
_COLOURS = ("#0b3c6f", "#d55e00", "#009e73", "#7f7f7f", "#cc79a7", "#56b4e9")
_DASHES = ("-", "--", "-.", ":")


def write_report(plan: Plan, runs: Sequence[Run], store: Store, folder: Path) -> Path:
    """Write report.html and report.md from the store and the runs' folders. Returns the page."""
    states = {state.id: state for state in store.states()}
    for run in runs:  # edited since it last ran
        states.setdefault(run.id, State(run.id, run.name, run.experiment.id))
    metrics = {}
    for run in runs:
        result = read_result(run.verb, Path(states[run.id].folder)) if states[run.id].state == "done" else None
        if result is not None:
            metrics[run.id] = metrics_of(run.verb, result)
    findings = find(plan, runs, states, metrics)
    content: dict[str, Any] = {
        "plan": plan,
        "findings": findings,
        "when": time.strftime("%Y-%m-%d %H:%M"),
        "hours": sum(finding.hours for finding in findings),
        "gpu_hours": sum(finding.gpu_hours for finding in findings),
    }
    unique = list({run.id: run for run in runs}.values())
    figures = {
        finding.experiment.id: _loss_curves([run for run in unique if run.experiment is finding.experiment], states)
        for finding in findings
    }
    gap = _gap(plan.reference, unique, states, metrics) if plan.reference else None
    folder.mkdir(parents=True, exist_ok=True)
    html = _environment(True).get_template("report.html.j2").render(**content, figures=figures, gap=gap)
    write_atomically(folder / "report.html", html)
    write_atomically(folder / "report.md", _environment(False).get_template("report.md.j2").render(**content))
    return folder / "report.html"


def _environment(html: bool) -> Environment:
    environment = Environment(
        loader=PackageLoader("concept_encoder.lab", "."), autoescape=html, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "duration": lambda hours: duration(3600 * hours),
        "number": number,
        "interval": _interval,
        "md": markdown,
        "mask": mask,
    }
    return environment


def number(value: float | None) -> str:
    """A value as people read it."""
    if value is None:
        return "–"
    size = abs(value)
    return f"{value:,.0f}" if size >= 1000 else f"{value:.1f}" if size >= 100 else f"{value:.4g}"


def _interval(low_high: tuple[float | None, float | None] | None) -> str:
    if low_high is None or low_high[0] is None:
        return ""
    return f"[{number(low_high[0])}, {number(low_high[1])}]"


def markdown(text: Any) -> str:
    """Text that means nothing in Markdown or HTML: no markup, no link, no table cell of somebody else's."""
    plain = " ".join(str(text).split())
    plain = plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for sign in "\\`*_[]|#!~":
        plain = plain.replace(sign, f"\\{sign}")
    return plain


def _loss_curves(runs: Sequence[Run], states: Mapping[str, State]) -> Markup | None:
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
        style = {"color": _COLOURS[index % len(_COLOURS)], "linestyle": _DASHES[index // len(_COLOURS) % len(_DASHES)]}
        marker = "o" if len(points) < 3 else None
        axes.plot(*zip(*points), label=None if name in named else name, marker=marker, linewidth=1.4, **style)
        named.add(name)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("held-out loss (nats)")
    axes.legend(frameon=False, fontsize=8)
    return _svg(fig, "Held-out loss against optimizer step")


def _gap(
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
                color=_COLOURS[place % len(_COLOURS)], linestyle=_DASHES[place // len(_COLOURS) % len(_DASHES)],
            )  # fmt: skip
            drawn += 1
    if not drawn:
        return None
    axes.axhline(0, color="#444444", linewidth=0.9)
    axes.set_xlabel("hours since the first result")
    axes.set_ylabel(f"{reference.name} minus the best so far")
    axes.legend(frameon=False, fontsize=8)
    return _svg(fig, f"Gap to {reference.name} over time")


def _axes() -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    fig = Figure(figsize=(6.4, 3.2), layout="constrained")
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

"""The report of a plan: one self-contained HTML page, and the same as Markdown."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from concept_encoder.lab.failures import mask
from concept_encoder.lab.findings import find, next_steps
from concept_encoder.lab.metrics import metrics_of
from concept_encoder.lab.plan import Plan
from concept_encoder.lab.plots import effects, gap, loss_curves
from concept_encoder.lab.progress import duration
from concept_encoder.lab.runs import Run
from concept_encoder.lab.store import State, Store
from concept_encoder.lab.verbs import read_result
from concept_encoder.records import write_atomically


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
    ran = [states[id] for id in dict.fromkeys(run.id for run in runs)]  # experiments may share a run
    content: dict[str, Any] = {
        "plan": plan,
        "findings": findings,
        "steps": next_steps(plan, findings),
        "when": time.strftime("%Y-%m-%d %H:%M"),
        "hours": sum(state.seconds for state in ran) / 3600,
        "gpu_hours": sum(state.seconds * state.gpus for state in ran) / 3600,
    }
    unique = list({run.id: run for run in runs}.values())
    figures: dict[str, list[Markup]] = {}
    for finding in findings:
        own = [run for run in unique if run.experiment is finding.experiment]
        drawn = (effects(finding), loss_curves(own, states))
        figures[finding.experiment.id] = [figure for figure in drawn if figure is not None]
    over_time = gap(plan.reference, unique, states, metrics) if plan.reference else None
    folder.mkdir(parents=True, exist_ok=True)
    html = _environment(True).get_template("report.html.j2").render(**content, figures=figures, gap=over_time)
    write_atomically(folder / "report.html", mask(html))
    text = _environment(False).get_template("report.md.j2").render(**content)
    write_atomically(folder / "report.md", mask(text))
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
    }
    return environment


def number(value: float | None) -> str:
    """A value as people read it."""
    if value is None:
        return "–"
    size = abs(value)
    return f"{value:,.0f}" if size >= 1000 else f"{value:.1f}" if size >= 100 else f"{value:.{4 if size >= 1 else 3}g}"


def _interval(low_high: tuple[float | None, float | None] | None) -> str:
    if low_high is None or low_high[0] is None:
        return ""
    return f"[{number(low_high[0])}, {number(low_high[1])}]"


def markdown(text: Any) -> str:
    """Text that means nothing in Markdown or HTML: no markup, no link, no table cell of somebody else's."""
    plain = mask(" ".join(str(text).split()))  # before its signs are escaped, among them those of a secret
    plain = plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for sign in "\\`*_[]|#!~":
        plain = plain.replace(sign, f"\\{sign}")
    return plain

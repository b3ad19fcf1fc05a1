"""Figures as SVG text: deterministic, no dates, no pyplot state, readable in grey print.

Lines differ in dash and marker as well as in colour; maps use cividis, whose lightness only grows. Every
function returns a matplotlib `Figure`; `to_svg` turns it into text (`figure.savefig` writes it as PNG or
PDF).
"""

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import wraps

import matplotlib
import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Colours of Okabe & Ito, ordered so that neighbours differ in lightness too.
STYLES = (
    {"color": "#0b3c6f", "linestyle": "-", "marker": "o"},
    {"color": "#d55e00", "linestyle": "--", "marker": "s"},
    {"color": "#009e73", "linestyle": "-.", "marker": "^"},
    {"color": "#7f7f7f", "linestyle": ":", "marker": "D"},
    {"color": "#cc79a7", "linestyle": (0, (5, 1, 1, 1, 1, 1)), "marker": "v"},
    {"color": "#56b4e9", "linestyle": (0, (1, 1)), "marker": "P"},
)
_RC = {
    "svg.hashsalt": "concept-encoder",  # the same figure gives the same bytes
    "svg.fonttype": "none",  # text stays text: small, searchable, and the browser has the glyphs
    "text.parse_math": False,  # a "$" in a user's text is a dollar
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "figure.constrained_layout.use": True,
    "image.cmap": "cividis",
}
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}


def figure(make: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw under this file's settings, whatever the user's matplotlibrc says."""

    @wraps(make)
    def wrapped(*args, **kwargs) -> Figure:
        with rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(_RC)
            return make(*args, **kwargs)

    return wrapped


def to_svg(fig: Figure) -> str:
    """The figure as SVG text, from `<svg` on: no XML prolog, no doctype, no metadata."""
    buffer = io.StringIO()
    with rc_context(_RC), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # measured here, drawn by the browser
        fig.savefig(buffer, format="svg", metadata=_NO_METADATA, dpi=150)
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :].strip() + "\n"


def new_axes(width: float = 6.4, height: float = 3.4, columns: int = 1, **kwargs) -> tuple[Figure, list[Axes]]:
    """A figure of `columns` axes side by side, sizes in inches."""
    fig = Figure(figsize=(width, height))
    FigureCanvasAgg(fig)
    return fig, list(fig.subplots(1, columns, squeeze=False, **kwargs)[0])


def _style(index: int, points: int) -> dict:
    style = dict(STYLES[index % len(STYLES)])
    return style | {"marker": style["marker"] if points <= 30 else None}


def _log_scale(axes: Axes) -> None:
    """Plain numbers on the ticks: text is never parsed as mathematics here, as tokens may hold any sign."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")


def _label(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, loc="left")
    axes.set_xlabel(x)
    axes.set_ylabel(y)


@figure
def loss_curves(
    series: Mapping[str, Sequence[tuple[float, float]]],
    baselines: Mapping[str, float] | None = None,
    title: str = "Masked-LM loss",
) -> Figure:
    """Loss against optimizer step; a baseline is a horizontal line with its name on it."""
    fig, (axes,) = new_axes()
    for index, (name, points) in enumerate(series.items()):
        steps, losses = zip(*points) if points else ((), ())
        axes.plot(steps, losses, label=_short(name), **_style(index, len(points)))
    for name, value in (baselines or {}).items():
        axes.axhline(value, color="#444444", linewidth=0.9, linestyle=(0, (6, 3)))
        axes.annotate(f"{name} {value:.2f}", (1, value), xycoords=("axes fraction", "data"), ha="right", va="bottom")
    _label(axes, title, "optimizer step", "loss (nats per masked token)")
    if series:
        axes.legend()
    return fig


@figure
def spectrum(
    spectra: Mapping[str, Sequence[float]],
    noise: Sequence[float] | None = None,
    title: str = "Singular values of a text's concepts",
) -> Figure:
    """Mean normalised singular values on a log scale; noise of the same shape is the ceiling."""
    fig, (axes,) = new_axes()
    curves = dict(spectra) | ({"isotropic noise (ceiling)": noise} if noise is not None else {})
    top = 0.0
    for index, (name, values) in enumerate(curves.items()):
        values = np.asarray(values, dtype=float)
        values = values[values > 1e-6]
        top = max(top, values.max(initial=0))
        axes.plot(np.arange(1, len(values) + 1), values, label=_short(name), **_style(index, len(values)))
    _log_scale(axes)
    axes.set_ylim(max(1e-5, axes.get_ylim()[0]), max(top * 1.6, 1e-3))
    _label(axes, title, "index k of the singular value", "share of the sum, s_k / Σ s")
    axes.legend()
    return fig


@figure
def correlation_matrix(matrices: Mapping[str, Sequence[Sequence[float | None]]]) -> Figure:
    """Correlation between concepts up to the last known one, a panel for each matrix, on one scale from -1 to 1."""
    fig, panels = new_axes(0.6 + 3.9 * len(matrices), 3.9, len(matrices))
    for axes, (name, matrix) in zip(panels, matrices.items()):
        values = np.array([[np.nan if v is None else v for v in row] for row in matrix], dtype=float)
        known = np.flatnonzero(~np.isnan(values).all(1)).max(initial=0) + 1
        image = _map(axes, values[:known, :known], vmin=-1, vmax=1)
        _label(axes, _short(name), "concept", "concept")
    bar = fig.colorbar(image, ax=panels, shrink=0.85, ticks=[-1, -0.5, 0, 0.5, 1])
    bar.set_label("Pearson correlation")
    return fig


@figure
def attention_over_tokens(tokens: Sequence[str], attention_KN, concepts: Sequence[int], title: str) -> Figure:
    """What a few concepts attend to in one sentence: one row a concept, one column a token."""
    values = np.asarray(attention_KN, dtype=float)
    fig, (axes,) = new_axes(max(5.0, 1.6 + 0.24 * len(tokens)), 1.7 + 0.24 * len(concepts))
    image = _map(axes, values, vmin=0, vmax=max(float(values.max(initial=0)), 1e-6), aspect="auto")
    axes.set_xticks(range(len(tokens)), [_shown(token) for token in tokens], rotation=60, ha="right")
    axes.set_xticks(np.arange(len(tokens) + 1) - 0.5, minor=True)
    axes.set_yticks(range(len(concepts)), [str(concept) for concept in concepts])
    axes.tick_params(axis="x", length=0)
    _label(axes, title, "token", "concept")
    fig.colorbar(image, ax=axes, pad=0.01).set_label("attention")
    return fig


@figure
def position_profile(mean_attention_CN, distance: Sequence[Sequence[float]] = (), uniform: float = 0.0) -> Figure:
    """Where each concept looks: by token position, and by distance from its own centre.

    Args:
        mean_attention_CN: attention of concept c on position n, mean over texts.
        distance: pairs (distance in tokens, mean attention); `uniform` is what attending everywhere alike would
            give.
    """
    values = np.asarray(mean_attention_CN, dtype=float)
    fig, panels = new_axes(8.6, 3.6, 2, width_ratios=[1.25, 1])
    # A few sinks would darken all the rest: the scale ends at the 99.5th percentile and its arrow says so.
    top = max(float(np.quantile(values, 0.995)), 1e-6)
    image = _map(panels[0], values, vmin=0, vmax=top, aspect="auto")
    _label(panels[0], "Where each concept looks", "token position", "concept")
    fig.colorbar(image, ax=panels[0], extend="max").set_label("attention (mean over texts)")
    if len(distance):
        offsets, shares = zip(*distance)
        panels[1].plot(offsets, shares, label="all concepts", **_style(0, len(offsets)))
    panels[1].axhline(uniform, color="#d55e00", linestyle="--", linewidth=1.2, label="uniform attention")
    panels[1].set_ylim(0, panels[1].get_ylim()[1] * 1.25)  # the legend stands above the curve
    _label(panels[1], "Attention by distance", "distance from the concept's centre (tokens)", "attention per token")
    panels[1].legend(loc="upper right", frameon=True, framealpha=0.85, edgecolor="none")
    return fig


@figure
def geometry_over_training(steps: Sequence[int], curves: Mapping[str, Sequence[float | None]]) -> Figure:
    """Shares between 0 and 1 (rank of its ceiling, mean correlation, ...) over a run's checkpoints."""
    fig, (axes,) = new_axes(8.6)
    for index, (name, values) in enumerate(curves.items()):
        known = np.array([np.nan if value is None else value for value in values], dtype=float)
        axes.plot(steps, known, label=name, **_style(index, len(known)))
    axes.set_ylim(-0.03, 1.03)
    _label(axes, "Concept geometry over training", "optimizer step", "share (0 to 1)")
    fig.legend(loc="outside right upper")
    return fig


@figure
def dimension_spectrum(
    spectra: Mapping[str, Sequence[float]], title: str = "Variance by principal direction"
) -> Figure:
    """Left: eigenvalues of the D x D covariance. Right: the variance that the first k of them hold."""
    fig, panels = new_axes(8.6, 3.2, 2)
    for index, (name, values) in enumerate(spectra.items()):
        shares = np.asarray(values, dtype=float)
        order = np.arange(1, len(shares) + 1)
        real = shares > 1e-8  # below is rounding: a norm takes one direction out, for instance
        panels[0].plot(order[real], shares[real], label=_short(name), **_style(index, len(shares)))
        panels[1].plot(order, np.cumsum(shares), **_style(index, len(shares)))
    _log_scale(panels[0])
    panels[1].axhline(0.9, color="#444444", linewidth=0.9, linestyle=(0, (6, 3)))
    below = {"xytext": (0, -3), "textcoords": "offset points", "ha": "right", "va": "top"}
    panels[1].annotate("90 %", (0.99, 0.9), xycoords=("axes fraction", "data"), **below)
    panels[1].set_ylim(0, 1.03)
    _label(panels[0], title, "principal direction", "share of variance")
    _label(panels[1], "Variance held by the first k", "directions k", "cumulative share")
    panels[0].legend()
    return fig


# How far from 1 the colours of a map of lifts reach, and what its bar says.
_LIFT_SCALES = {
    1.5: {"⅔ ×": 2 / 3, "1 ×": 1, "1½ ×": 1.5},
    2: {"½ ×": 1 / 2, "1 ×": 1, "2 ×": 2},
    4: {"¼ ×": 1 / 4, "½ ×": 1 / 2, "1 ×": 1, "2 ×": 2, "4 ×": 4},
}


@figure
def role_map(lift_CU, classes: Sequence[str], significant_CU) -> Figure:
    """Attention of concepts to word classes relative to chance; a dot where it is significant.

    It ends with the last concept that was judged; its scale is the narrowest that holds 99 % of the values.
    """
    lift = np.asarray(lift_CU, dtype=float)
    lift = lift[: np.flatnonzero(~np.isnan(lift).all(1))[-1] + 1]
    log = np.log2(np.clip(lift, 1 / 4, 4))
    reach = np.nanquantile(np.abs(log), 0.99)
    most, ticks = next(scale for scale in _LIFT_SCALES.items() if np.log2(scale[0]) >= reach)
    fig, (axes,) = new_axes(2.2 + 0.34 * len(classes), min(2.6 + 0.16 * len(lift), 9.0))
    image = _map(axes, log, vmin=-np.log2(most), vmax=np.log2(most), aspect="auto")
    rows, columns = np.nonzero(np.asarray(significant_CU))
    size = 14 if len(lift) <= 40 else 4
    axes.scatter(columns, rows, s=size, color="white", edgecolors="black", linewidths=0.6)
    axes.set_xticks(range(len(classes)), classes, rotation=60, ha="right")
    _label(axes, "Attention to word classes", "word class (○ significant)", "concept")
    bar = fig.colorbar(image, ax=axes, extend="both", ticks=np.log2(list(ticks.values())), aspect=35)
    bar.ax.set_yticklabels(ticks)
    bar.set_label("attention relative to shuffled tags")
    return fig


@figure
def concept_bars(
    values_C: Sequence[float], title: str, unit: str, threshold: tuple[str, float] | None = None
) -> Figure:
    """One bar a concept, the largest first; of more than 48 concepts the first 48. A threshold is a named line."""
    values = np.asarray(values_C, dtype=float)
    order = np.argsort(-values, kind="stable")[:48]
    fig, (axes,) = new_axes(max(4.0, 1.4 + 0.15 * len(order)), 3.0)
    axes.bar(range(len(order)), values[order], color="#0b3c6f", width=0.8)
    axes.axhline(0, color="#444444", linewidth=0.8)
    if threshold is not None:
        axes.axhline(threshold[1], color="white", linewidth=3.0)  # else the line is lost on dark bars in grey print
        axes.axhline(threshold[1], color="#d55e00", linestyle="--", linewidth=1.4, label=threshold[0])
        axes.legend(loc="upper right")
    axes.set_xticks(range(len(order)), [str(concept) for concept in order], rotation=90, fontsize=7)
    axes.margins(x=0.01)
    axes.grid(axis="x", visible=False)
    shown = f", {len(order)} of {len(values)}" if len(order) < len(values) else ""
    _label(axes, title, f"concept, largest first{shown}", unit)
    return fig


def _short(name: str, most: int = 40) -> str:
    """A name that fits a legend: the middle of a long one is left out."""
    return name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[-most // 2 :]}"


def _shown(token: str) -> str:
    """A token as a tick: a blank is visible, a long one is cut."""
    token = token.strip() or "␣"
    return token if len(token) <= 16 else f"{token[:15]}…"


def _map(axes: Axes, values: np.ndarray, *, vmin: float, vmax: float, aspect: str = "equal"):
    """An image with crisp cells however few or many there are; unknown values are white."""
    axes.grid(visible=False)
    axes.set_facecolor("white")
    return axes.imshow(values, vmin=vmin, vmax=vmax, aspect=aspect, interpolation="none", origin="upper")

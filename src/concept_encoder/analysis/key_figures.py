"""The key figures of an analysis: where each is found, what is wanted of it, and how to read it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from concept_encoder.analysis.overlap import DUPLICATE, TARGET_MEAN, VARIANCE_FLOOR
from concept_encoder.analysis.pictures import Analysis
from concept_encoder.analysis.rank import NEARLY_ONE_VECTOR, TARGET_SHARE
from concept_encoder.analysis.report import Number


@dataclass(frozen=True)
class KeyFigure:
    """One number of an analysis: its name, the keys that lead to it, what is wanted of it, and how to read it."""

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
    KeyFigure("effective rank", ("rank", "effective_rank"), note="directions that the concepts of one text use"),
    KeyFigure(
        "effective rank / noise ceiling",
        ("rank", "share_of_ceiling"),
        f"> {TARGET_SHARE}",
        # Concepts that are almost one vector can reach any rank in the little that is left: that meets no target.
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
    KeyFigure(
        "participation ratio of dimensions",
        ("dimensions", "participation_ratio"),
        note="the width for isotropic states, 1 on a line",
    ),
    KeyFigure("noise ceiling of the rank", ("rank", "noise_ceiling"), note="what noise of the same shape reaches"),
    KeyFigure("content rank", ("rank", "content_rank"), note="without each slot's own mean over texts"),
    KeyFigure(
        "sum / largest singular value (MrCogito's rank)",
        ("rank", "sum_over_max"),
        note="of the uncentred mean over texts: one shared vector drives it down; for comparison, decides nothing",
    ),
    KeyFigure("variance between texts", ("rank", "variance", "between_texts"), note="0: concepts are constants"),
    KeyFigure("RankMe over texts", ("rank", "rankme"), note="of each text's mean concept; the width at most"),
    KeyFigure("RankMe over texts, centred", ("rank", "rankme_centred"), note="without the mean over texts"),
    KeyFigure("largest |correlation|", ("overlap", "raw", "max_absolute"), note="of the closest pair of concepts"),
    KeyFigure(
        "mean |correlation| of content",
        ("overlap", "content", "mean_absolute"),
        note="without each slot's own mean over texts",
    ),
    KeyFigure(
        "concepts that duplicate another",
        ("overlap", "raw", "duplicated_concepts"),
        note=f"|correlation| of {DUPLICATE} or more",
    ),
    KeyFigure("dead concepts", ("overlap", "dead"), note="the same for every text"),
    KeyFigure(
        "share of dimensions in use",
        ("dimensions", "share_above_floor"),
        note=f"more than {100 * VARIANCE_FLOOR:g} % of the mean variance",
    ),
    KeyFigure("directions for 90 % of the variance", ("dimensions", "directions_for_90")),
    KeyFigure("attention entropy, last read", ("attention", "last", "mean_entropy"), note="1: everywhere alike"),
    KeyFigure(
        "concepts that look by position",
        ("attention", "last", "position_lookups"),
        note="the same places in every text",
    ),
    KeyFigure(
        "concepts that look by content", ("attention", "last", "content_lookups"), note="places that depend on the text"
    ),
    KeyFigure(
        "concepts selective for a word class", ("roles", "selective_concepts"), note="corrected, against shuffled tags"
    ),
    KeyFigure("concepts that carry the label", ("task", "carriers"), note="more than shuffled labels explain"),
    KeyFigure(
        "loss added, all concepts zeroed",
        ("causal", "all", "zero", "added"),
        note="nats per label; near 0: the answer does not need them",
    ),
    KeyFigure(
        "loss added, all concepts shuffled", ("causal", "all", "shuffle", "added"), note="each text hears another's"
    ),
    KeyFigure(
        "loss added, all concepts at their mean", ("causal", "all", "mean", "added"), note="what they always say"
    ),
    KeyFigure("tokens per concept, as used", ("texts", "tokens_per_concept"), note="on the real length of the texts"),
    KeyFigure("health", ("health", "verdict")),
)


def key_numbers(analysis: Analysis) -> list[Number]:
    """Every key figure that this analysis has, marked against its target."""
    numbers = (key.number(analysis) for key in KEY_FIGURES)
    return [number for number in numbers if number.value is not None]


def notes_of(analysis: Analysis) -> list[str]:
    """Every caveat of an analysis: of all of it, then of its parts."""
    parts = (analysis.get(part) or {} for part in ("rank", "overlap", "dimensions", "roles", "task", "causal"))
    return list(dict.fromkeys([*analysis["notes"], *(note for part in parts for note in part.get("notes", []))]))

"""An analysis as people read it: one page, and the files that are left.

Everything here is computed from the dictionary that `analyze` returns (or `analysis.json` holds), never
from a model.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from concept_encoder.analysis.figures import to_svg
from concept_encoder.analysis.key_figures import key_numbers
from concept_encoder.analysis.pictures import Analysis, figures_of
from concept_encoder.analysis.report import Report
from concept_encoder.errors import UserError
from concept_encoder.records import write_atomically

_CARDS = 6  # so many key figures are shown large


def concept_report(
    analysis: Analysis, report: Report | None = None, pictures: Mapping[str, Figure | str] | None = None
) -> Report:
    """The page of one analysis; its sections are added to `report` when there is one already.

    Args:
        pictures: the figures of the analysis by name, or their SVG, when they are drawn already.
    """
    subject, texts = analysis["subject"], analysis["texts"]
    kind = subject["kind"]
    if report is None:
        sizes = f"{texts['mean_tokens']:.0f} tokens and {texts['mean_concepts']:.0f} {kind} in each (mean)"
        report = Report(f"What the {kind} of {subject['name']} are", f"{texts['count']:,} {texts['source']}, {sizes}")
    pictures, numbers = pictures or figures_of(analysis), key_numbers(analysis)
    cards, rest = numbers[:_CARDS], numbers[_CARDS:]
    report.section(f"The {kind} in short")
    if kind == "tokens":
        report.prose("Token states stand in for concepts: where this page says concept, read token.")
    report.numbers(*cards).notes(analysis["notes"])
    report.table(["figure", "value", "how to read it"], [[number.label, number.value, number.note] for number in rest])
    for add in (_losses, _rank, _correlation, _dimensions, _attention, _roles, _task, _causal, _training, _health):
        add(report, analysis, pictures)
    return report


def write_analysis(analysis: Analysis, folder: str | Path) -> Path:
    """Write analysis.json, figures/*.svg and report.html; returns the page.

    Figures that an earlier analysis left in figures/ and this one does not have are deleted.

    Raises:
        OSError: the folder cannot be written.
    """
    folder = Path(folder)
    write_atomically(folder / "analysis.json", json.dumps(analysis, allow_nan=False) + "\n")
    pictures = {name: to_svg(figure) for name, figure in figures_of(analysis).items()}
    files = {folder / "figures" / f"{name}.svg": svg for name, svg in pictures.items()}
    for earlier in set((folder / "figures").glob("*.svg")) - set(files):
        earlier.unlink()
    for file, svg in files.items():
        write_atomically(file, svg)
    return concept_report(analysis, pictures=pictures).write(folder / "report.html")


def read_analysis(path: str | Path) -> Analysis:
    """Read analysis.json, or the one in a folder."""
    path = Path(path) / "analysis.json" if Path(path).is_dir() else Path(path)
    try:
        analysis = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); run the analysis first") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        analysis = None
    if not isinstance(analysis, dict) or not {"subject", "texts", "rank", "health", "notes"} <= analysis.keys():
        raise UserError(f"{path}: not an analysis; run the analysis again")
    return analysis


Pictures = Mapping[str, Figure | str]


def _losses(report: Report, analysis: Analysis, pictures: Pictures) -> None:
    if "loss" in pictures:
        report.section("Loss").figure(pictures["loss"], "Loss over training, from the run's own record.")


def _rank(report: Report, analysis: Analysis, pictures: Pictures) -> None:
    rank = analysis["rank"]
    if "spectrum" not in pictures:
        return
    report.section("Effective rank").prose(
        "How many directions the concepts of one text use: exp of the entropy of the singular values of the text's "
        "C × D matrix, centred over its concepts and normalised to sum 1 (Roy & Vetterli 2007), averaged over "
        f"texts. Here {rank['effective_rank']:.1f}; isotropic noise of the same shape reaches "
        f"{rank['noise_ceiling']:.1f}. The content rank is the same after each slot's own mean over texts is taken out."
    ).notes(rank["notes"])
    report.figure(pictures["spectrum"], "A steeper line means fewer directions. The noise line is the ceiling.")
    if rank["variance"]:
        shares = rank["variance"]
        rows = [
            ["fixed differences between slots, the same in every text", shares["slot"]],
            ["what all concepts of a text share", shares["text"]],
            ["what one concept says about one text", shares["interaction"]],
        ]
        report.table(["variance", "share"], rows, "Where the variance of the states lies")


def _correlation(report: Report, analysis: Analysis, pictures: Pictures) -> None:
    if "correlation" not in pictures:
        return
    overlap = analysis["overlap"]
    report.section("Correlation between concepts").notes(overlap["notes"])
    report.figure(
        pictures["correlation"],
        "Pearson correlation over all texts and dimensions. A vector that all concepts share counts as agreement in "
        "the states as they are, and not in their content. White: unknown (absent, dead, or too few texts).",
    )
    if overlap["raw"]["duplicates"]:
        more = overlap["raw"]["duplicate_pairs"] - len(overlap["raw"]["duplicates"])
        caption = "Duplicates (|r| of 0.95 or more)" + (f", and {more:,} more pairs" if more else "")
        report.table(["concept", "duplicate of", "r"], [[b, a, r] for a, b, r in overlap["raw"]["duplicates"]], caption)


def _dimensions(report: Report, analysis: Analysis, pictures: Pictures) -> None:
    if "dimensions" not in pictures:
        return
    use = analysis["dimensions"]
    report.section("Use of dimensions").prose(
        f"Of {use['width']} dimensions {100 * use['share_above_floor']:.0f} % vary by more than 1 % of the mean "
        f"variance; {use['directions_for_90']} directions hold 90 % of the variance; the participation ratio is "
        f"{use['participation_ratio']:.1f}."
    ).notes(use["notes"]).figure(pictures["dimensions"], "Eigenvalues of the covariance of all states.")


def _attention(report: Report, analysis: Analysis, pictures: Pictures) -> None:
    attention = analysis["attention"]
    if not attention:
        return
    last = attention["last"]
    report.section("What concepts attend to").prose(
        f"In the last read of {attention['reads']}, {last['position_lookups']} concepts look by position (the same "
        f"places in every text), {last['content_lookups']} by content, and {last['no_lookup']} everywhere alike. "
        f"Special tokens receive {100 * last['mean_special_share']:.0f} % of the attention."
    ).notes(last["notes"])
    report.figure(pictures["position"], "Attention by position, and by distance from each concept's own centre.")
    entropies = [[number, value] for number, value in enumerate(attention["mean_entropy_by_read"], start=1)]
    report.table(["read", "entropy / ln n"], entropies, "Entropy of a head's attention; 1 is everywhere alike")
    for name, figure in pictures.items():
        if name.startswith("sentence-"):
            report.figure(figure, "The sharpest concepts and a few others; each row sums to 1 over the whole text.")


def _roles(report: Report, analysis: Analysis, pictures: Pictures) -> None:
    roles = analysis.get("roles")
    if not roles:
        return
    report.section("Word classes").notes(roles["notes"])
    if "word-classes" not in pictures:
        return
    report.prose(
        f"{roles['selective_concepts']} concepts attend to some word class more than chance, "
        f"{roles['significant_pairs']} of {roles['pairs']} pairs at a false discovery rate of 5 %. With shuffled "
        f"tags the same test finds {roles['significant_pairs_shuffled']:.1f}."
    ).figure(pictures["word-classes"], f"{roles['words']:,} words of {roles['sentences']:,} tagged sentences.")
    rows = [[role["concept"], role["class"], role["lift"], role["q"]] for role in roles["roles"][:12]]
    report.table(["concept", "word class", "lift", "corrected p"], rows, "The strongest preferences")


def _task(report: Report, analysis: Analysis, pictures: Pictures) -> None:
    task = analysis.get("task")
    if not task:
        return
    report.section(f"Which concepts carry {task['name']}").notes(task["notes"])
    if "task" not in pictures:
        return
    report.prose(
        "How much of a concept's variance over texts the label explains (adjusted R² over all its dimensions; 0 where "
        f"the label says nothing). {len(task['carriers'])} of {task['judged']} concepts are above the threshold, which "
        f"the best concept under shuffled labels passes in 5 of 100 shufflings. {task['texts']:,} texts, no training."
    ).figure(pictures["task"], "Carrying a label is not using it: see the loss added when a concept is taken away.")
    added = ((analysis.get("causal") or {}).get("each") or {}).get("mean") or []
    rows = [[c, task["shares"][c], added[c] if c < len(added) else None] for c in task["carriers"][:12]]
    loss = (analysis.get("causal") or {}).get("loss", "loss")
    report.table(["concept", "share explained", f"{loss} added"], rows, "The strongest carriers")


def _causal(report: Report, analysis: Analysis, pictures: Pictures) -> None:
    causal = analysis.get("causal")
    if not causal:
        return
    report.section("Does the answer use the concepts?").notes(causal["notes"])
    if "all" not in causal:
        return
    report.prose(
        f"The {causal['loss']} is {causal['base_loss']:.3f} over {causal['labels']:,} labels. What follows is added "
        "when concepts are changed wherever tokens or the head hear them. Near zero for all at once: the answer does "
        "not need them."
    )
    names = {"zero": "set to zero", "shuffle": "shuffled between texts", "mean": "replaced by their mean"}
    rows = [[name, causal["all"][kind]["added"], causal["all"][kind]["standard_error"]] for kind, name in names.items()]
    report.table(["all concepts", "loss added", "standard error"], rows)
    if "causal" in pictures:
        report.figure(pictures["causal"], f"One concept at a time, over {causal['each_labels']:,} labels.")


def _training(report: Report, analysis: Analysis, pictures: Pictures) -> None:
    if "training" in pictures:
        report.section("Over training").figure(pictures["training"], "The same figures at each checkpoint of the run.")


def _health(report: Report, analysis: Analysis, pictures: Pictures) -> None:
    rows = [[check["name"], check["verdict"], check["evidence"]] for check in analysis["health"]["checks"]]
    report.section("Health").table(["check", "verdict", "evidence"], rows)

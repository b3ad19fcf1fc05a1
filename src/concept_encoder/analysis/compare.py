"""Two analyses side by side."""

import json
from pathlib import Path

from concept_encoder.analysis import figures
from concept_encoder.analysis.key_figures import KEY_FIGURES
from concept_encoder.analysis.pictures import Analysis
from concept_encoder.analysis.report import Report
from concept_encoder.records import write_atomically

_VERDICTS = {True: "✓", False: "✗", None: "–"}


def compare(first: Analysis, second: Analysis) -> dict:
    """Names, and a row [figure, first, second, difference] for each key figure that either has; JSON-able.

    `targets` says of each row what is wanted and whether first / second meet it (✓ / ✗); empty where nothing is.
    """
    rows, targets = [], []
    for key in KEY_FIGURES:
        a, b = key.of(first), key.of(second)
        if a is None and b is None:
            continue
        both = isinstance(a, int | float) and isinstance(b, int | float)
        rows.append([key.label, a, b, round(b - a, 5) if both else None])
        verdicts = [_VERDICTS[key.number(analysis).met] for analysis in (first, second)]
        targets.append(f"{key.target} {' / '.join(verdicts)}" if key.target else "")
    names = [first["subject"]["name"], second["subject"]["name"]]
    if names[0] == names[1]:
        names = [analysis["subject"]["checkpoint"] or names[0] for analysis in (first, second)]
    if names[0] == names[1]:
        names = ["first", "second"]
    notes = []
    if first["texts"]["count"] != second["texts"]["count"]:
        notes.append("the two were analysed on different numbers of texts: compare with care")
    elif first["texts"].get("source") != second["texts"].get("source"):
        notes.append("the two were analysed on different texts: compare with care")
    if first["subject"]["kind"] != second["subject"]["kind"]:
        notes.append("concepts of one stand beside token states of the other: their numbers per text differ")
    return {"names": names, "rows": rows, "targets": targets, "notes": notes}


def comparison_report(first: Analysis, second: Analysis) -> Report:
    """The page of two analyses: the key figures, and the spectra and correlations on common axes."""
    found = compare(first, second)
    names, pair = found["names"], (first, second)
    report = Report(f"{names[0]} and {names[1]}", "The same figures side by side")
    report.section("Key figures").notes(found["notes"])
    rows = [[*row, target] for row, target in zip(found["rows"], found["targets"])]
    report.table(["figure", *names, "difference", "target"], rows)
    ranks = {name: analysis["rank"] for name, analysis in zip(names, pair)}
    if all(rank and rank.get("spectrum") for rank in ranks.values()):
        spectra = {name: rank["spectrum"] for name, rank in ranks.items()}
        report.section("Rank").figure(figures.spectrum(spectra), "Singular values of a text's concepts, centred.")
        matrices = {name: analysis["overlap"]["raw"]["matrix"] for name, analysis in zip(names, pair)}
        report.section("Correlation").figure(figures.correlation_matrix(matrices), "Raw correlation of the states.")
        use = {name: analysis["dimensions"].get("spectrum") or [] for name, analysis in zip(names, pair)}
        report.section("Dimensions").figure(figures.dimension_spectrum(use), "Variance by principal direction.")
    return report


def write_comparison(first: Analysis, second: Analysis, folder: str | Path) -> Path:
    """Write comparison.json and comparison.html; returns the page."""
    folder = Path(folder)
    write_atomically(folder / "comparison.json", json.dumps(compare(first, second), allow_nan=False, indent=1) + "\n")
    return comparison_report(first, second).write(folder / "comparison.html")

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import numpy as np
import pytest

from concept_encoder.analysis import figures
from concept_encoder.analysis.report import Number, Report, cell

NASTY = '<script>alert("x")</script> & $5 é 中文'
EYE = np.eye(4).tolist()
FIGURES = {
    "loss": lambda: figures.loss_curves({NASTY: [(0, 9.0), (10, 7.0)], "none yet": []}, {"unigram": 7.1}),
    "spectrum": lambda: figures.spectrum({NASTY: [0.5, 0.3, 0.2, 0.0]}, [0.3, 0.3, 0.2, 0.2]),
    "correlation": lambda: figures.correlation_matrix({NASTY: EYE, "content": [[None] * 4] * 4}),
    "attention": lambda: figures.attention_over_tokens([NASTY, " ", "c"], np.eye(3), [0, 5, 9], NASTY),
    "position": lambda: figures.position_profile(np.eye(6), [(-1, 0.1), (0, 0.8), (1, 0.1)], 1 / 6),
    "training": lambda: figures.geometry_over_training([1, 2], {NASTY: [0.2, None]}),
    "dimensions": lambda: figures.dimension_spectrum({NASTY: [0.6, 0.3, 0.1, 0.0]}),
    "roles": lambda: figures.role_map([[1.0, 2.0], [0.0, 9.0]], ["NOUN", NASTY], [[0, 1], [1, 0]]),
    "causal": lambda: figures.concept_bars(np.linspace(-0.1, 1, 128), NASTY, NASTY, (NASTY, 0.5)),
}


class Strict(HTMLParser):
    """Notes tags, attributes and text, and that every tag is closed."""

    VOID = ("meta", "br", "img", "link", "hr")

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.text, self.attributes = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def parse(html: str) -> Strict:
    parser = Strict()
    parser.feed(html)
    assert not parser.open
    return parser


def example() -> Report:
    report = Report(NASTY, NASTY)
    report.section(NASTY).prose(NASTY).notes([NASTY]).numbers(
        Number(NASTY, 0.25, target="< 0.3", met=True, note=NASTY), Number("rank", None, "> 0.8", met=False)
    )
    report.table(["model", NASTY], [[NASTY, 4.93], ["unigram", None]], NASTY)
    report.section("Figures")
    for make in FIGURES.values():
        report.figure(make(), NASTY)
    return report


def test_a_long_name_keeps_its_ends_and_unknown_concepts_take_no_room():
    name = "a-run-with-width-512-and-many-words/checkpoint-100000"
    fig = figures.correlation_matrix({name: [[1.0, 0.5, None], [0.5, 1.0, None], [None] * 3]})
    title = fig.axes[0].get_title(loc="left")
    assert len(title) <= 40
    assert title.startswith("a-run-with-width")
    assert title.endswith("/checkpoint-100000")
    assert fig.axes[0].images[0].get_array().shape == (2, 2)


@pytest.mark.parametrize(("lift", "says"), [(1.3, "1½ ×"), (0.6, "2 ×"), (0.0, "4 ×")])
def test_the_map_of_word_classes_fits_what_it_shows(lift, says):
    """Its scale is as wide as the values, and concepts after the last one that was judged take no room."""
    lifts, nothing = [[1.0, lift], [None, None], [1.0, 1.0], [None, None]], [[0, 0]] * 4
    fig = figures.role_map(lifts, ["NOUN", "VERB"], nothing)
    axes, bar = fig.axes
    assert bar.get_yticklabels()[-1].get_text() == says
    assert axes.images[0].get_array().shape == (3, 2)


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_well_formed_self_contained_and_always_the_same(name):
    svg = figures.to_svg(FIGURES[name]())
    root = ET.fromstring(svg)
    assert root.tag.endswith("svg")
    assert svg == figures.to_svg(FIGURES[name]())
    assert not re.search(r"https?://(?!www\.w3\.org/)", svg)
    assert "<metadata" not in svg
    shown = "".join(root.itertext())
    if name != "position":
        assert NASTY in shown
    assert len(svg) < 100_000
    for axes in [element for element in root.iter() if element.get("id", "").startswith("axes_")]:
        assert "".join(axes.itertext()).strip(), "axes without a word on them"


def test_a_page_is_well_formed_and_escapes_what_users_wrote():
    html = example().render()
    page = parse(html)
    assert "script" not in page.tags
    assert any(NASTY in text for text in page.text)
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    for reference in re.findall(r'(?:url\(#|href="#)([^)"]+)', html):
        assert reference in ids


def test_a_page_fetches_nothing():
    html = example().render()
    page = parse(html)
    assert not {"link", "img", "iframe", "script", "object"} & set(page.tags)
    for name, value in page.attributes:
        if name in ("src", "href", "xlink:href", "data"):
            assert value.startswith(("#", "data:image/png;base64,"))
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)


def test_targets_are_marked_in_words_too():
    html = example().render()
    assert "✓ met" in html
    assert "✗ missed" in html


def test_numbers_read_as_people_write_them():
    shown = [cell(v) for v in (None, float("nan"), True, 12345, 0.123456, 1.2e-5, 123.45, 45678.9, 0.0, "x")]
    assert shown == ["–", "–", "yes", "12,345", "0.123", "1.2e-05", "123.5", "45,679", "0.000", "x"]


def test_writing_leaves_one_file_and_the_same_bytes(tmp_path):
    first = example().write(tmp_path / "new" / "report.html").read_bytes()
    example().write(tmp_path / "new" / "report.html")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["report.html"]
    assert (tmp_path / "new" / "report.html").read_bytes() == first

"""The report says what was found, shows nothing of a stranger's markup, and needs nothing from anywhere."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from concept_encoder.lab.plan import load_plan
from concept_encoder.lab.report import markdown, write_report
from concept_encoder.lab.runs import expand

EVIL = "<script>alert(1)</script> | [click](javascript:x) {{ 7 * 7 }} hf_abcdefghijklmnop"


@pytest.fixture
def page(write_plan, lab, tmp_path):
    def expect(by: float) -> dict:
        return {"metric": "eval_loss", "direction": "down", "by": by, "against": "base"}

    file = write_plan(
        {"id": "base", "seeds": [0, 1, 2, 3, 4], "overrides": {"data.value": 5, "data.fake": "ok"}},
        {"id": "better", "seeds": [0, 1, 2, 3, 4], "hypothesis": EVIL, "expect": expect(0.5),
         "overrides": {"data.value": 4}, "gates": {"go on if": "eval_loss < 4.5"}},
        {"id": "worse", "seeds": [0, 1, 2, 3, 4], "expect": expect(0.5), "overrides": {"data.value": 4.8},
         "gates": {"go on if": "eval_loss < 4.5"}},
        {"id": "alone", "expect": expect(0.5), "overrides": {"data.value": 3}},
        {"id": "broken", "expect": expect(0.5), "overrides": {"data.value": 3, "data.fake": "mistake"}},
        {"id": "score", "verb": "finetune",
         "overrides": {"model.checkpoint": "x", "data.task": "mnli", "data.value": 0.6}},
        reference={"name": "BERT-Base", "source": "a table", "metrics": {"mnli.accuracy": 0.846}},
    )  # fmt: skip
    lab(file).run(every=0.02)
    plan = load_plan(file)
    store = lab(file).store
    return write_report(plan, expand(plan), store, tmp_path / "report")


def test_verdicts_gates_and_failures(page):
    text = page.with_suffix(".md").read_text()
    rows = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if line.startswith("| ")}
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", text, flags=re.M | re.S))
    assert "**supported**" in sections["better"]
    assert "**refuted**" in sections["worse"]
    assert "**undecided**, one seed has no spread; 5 are the least that decide" in sections["alone"]
    assert "no result reports the metric" in sections["broken"]
    assert "model.preset: no preset is called" in sections["broken"]
    assert "gate open: eval\\_loss is 4.02, mean of 5 seeds; go on if eval\\_loss &lt; 4.5" in sections["better"]
    assert "gate closed" in sections["worse"]
    assert (
        "- worse: do not go on from here: eval\\_loss is 4.82, mean of 5 seeds; go on if eval\\_loss &lt; 4.5" in text
    )
    assert "- alone: undecided; one seed has no spread; 5 are the least that decide" in text
    assert "- broken: 1 failed; mend what its reasons say, then plan run --retry" in text
    assert rows["base"]


def test_the_page_escapes_and_fetches_nothing(page):
    html = page.read_text()
    assert "<script" not in html
    assert "{{ 7 * 7 }} ***" in html
    assert "&lt;script&gt;" in html
    assert "Gap to BERT-Base" in html

    class Links(HTMLParser):
        found: list[str] = []  # noqa: RUF012

        def handle_starttag(self, tag, attrs):
            self.found += [value for name, value in attrs if name in ("src", "href", "xlink:href") and value]

    links = Links()
    links.feed(html)
    assert all(link.startswith(("#", "data:")) for link in links.found)
    assert html.count("<svg") == 9  # curves of five experiments, effects of three, and the gap
    assert "<script>" not in page.with_suffix(".md").read_text()
    assert "abcdefghijklmnop" not in html + page.with_suffix(".md").read_text()  # a secret


def test_markdown_of_a_stranger_is_text():
    assert markdown("a|b\n# c <i> [x](y)") == "a\\|b \\# c &lt;i&gt; \\[x\\](y)"


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_chromium_shows_the_page_without_errors_or_network(page, tmp_path):
    (bad := tmp_path / "bad.html").write_text('<img src="http://127.0.0.1:9/x.png"><script>null.x</script>')
    assert [len(found) for found in _look(bad, tmp_path)[1:]] == [1, 1], "the looking works"
    text, console, asked = _look(page, tmp_path)
    assert "Gap to BERT-Base" in text
    assert not console
    assert not asked


def _look(page: Path, folder: Path) -> tuple[str, list[str], set[str]]:
    """The page as the browser has it, lines of its console, and what the page (not the browser itself) asked for."""
    call = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--log-net-log={folder / 'net.json'}"]
    call += ["--disable-background-networking", "--enable-logging=stderr", "--dump-dom", page.as_uri()]
    found = subprocess.run(call, capture_output=True, text=True, timeout=120)
    lines = (folder / "net.json").read_text().splitlines()
    events = [json.loads(line.rstrip(",")) for line in lines if line.startswith('{"params') and "initiator" in line]
    asked = {event["params"]["url"] for event in events if event["params"]["initiator"] != "not an origin"}
    return found.stdout, [line for line in found.stderr.splitlines() if "CONSOLE" in line], asked

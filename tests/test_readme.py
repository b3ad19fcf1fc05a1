"""The README speaks of the code as it is."""

import re
import shlex
from pathlib import Path

import pytest

from concept_encoder.cli.main import VERBS
from concept_encoder.model import PRESETS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_tree_lists_every_file():
    tree = README[README.index("## The tree") :]
    files = {path.name for path in (ROOT / "src").rglob("*.py") if path.name != "__init__.py"}
    assert not {name for name in files if name not in tree}
    listed = re.findall(r"^\s+([a-z_]+\.py)", tree, flags=re.M)
    assert not set(listed) - files


def test_the_presets_are_all_there():
    table = README[README.index("## Presets") : README.index("## Documentation")]
    assert set(re.findall(r"^\| `(\w+)` \|", table, flags=re.M)) == set(PRESETS)


@pytest.mark.parametrize(
    "document", ["README.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").glob("*.md"))]
)
def test_commands_name_verbs_and_recipes_that_exist(document):
    text = (ROOT / document).read_text()
    for line in re.findall(r"^concept-encoder (.+)$", text, flags=re.M):
        words = shlex.split(line.rstrip("\\").split("#")[0])
        assert words[0] in VERBS
        for word in words:
            assert not word.startswith("recipes/") or (ROOT / word).is_file(), word
    assert not re.search(r"@[A-Z]+@", text), "a placeholder was left"
    for link in re.findall(r"\]\(((?!http)[^)#]+)\)", text):
        assert ((ROOT / document).parent / link).exists(), link

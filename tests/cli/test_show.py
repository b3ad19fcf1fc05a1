"""Tables as a terminal and a pipe show them."""

import pytest

from concept_encoder.cli import main, show


@pytest.mark.parametrize(
    ("value", "shown"),
    [(-0.0001, "0.000"), (0.0, "0.000"), (-0.002, "-0.002"), (-1234.0, "-1,234"), (float("nan"), "nan"), (None, "–")],
)
def test_numbers(value, shown):
    assert show.number(value) == shown


def test_titles_and_names_stay_whole_where_cells_are_folded(capsys, monkeypatch):
    monkeypatch.setattr(show.console, "_width", 40)
    show.show_table("A title longer than its table", ["name", "text"], [["sick-entailment", "word " * 30]])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].rstrip() == "A title longer than its table"
    assert any("sick-entailment" in line for line in lines)
    assert max(map(len, lines)) <= 40


def test_an_interrupt_promises_no_checkpoint_where_nothing_is_trained(capsys, monkeypatch):
    def interrupted(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr(main.cli, "main", interrupted)
    with pytest.raises(SystemExit) as stopped:
        main.main(["analyze", "run"])
    assert stopped.value.code == 130
    assert "give the same command again: what trains goes on" in capsys.readouterr().err

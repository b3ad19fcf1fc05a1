"""Like against like: metric by metric, and averages under their names."""

import numpy as np
import pytest

from concept_encoder.evaluation.averages import AVERAGES
from concept_encoder.evaluation.compare import AT_MAJORITY
from concept_encoder.evaluation.gap import Standing, published_table, standing_of, standing_of_published, tables
from concept_encoder.evaluation.published import PUBLISHED
from concept_encoder.evaluation.runs import read_systems


def cells(table, *start):
    return next(row for row in table.rows if tuple(row[: len(start)]) == start)


def test_the_plan_against_its_own_row():
    tasks, averages = tables([standing_of_published(PUBLISHED["plan"])], PUBLISHED["bert-base-mnli"])
    assert cells(tasks, "qqp")[1:6] == ["accuracy", "79.0", "–", "91.4", "+12.4"]
    assert [row[1] for row in tasks.rows if row[0] == "mrpc"] == ["accuracy"]  # its row has no F1
    assert cells(tasks, "mrpc", "accuracy")[5:] == ["+18.4", "68.4", AT_MAJORITY]
    assert cells(tasks, "sst2")[-1] == ""
    assert cells(averages, "AVG8-acc")[2:5] == ["61.6", "84.7", "+23.1"]
    assert cells(averages, "PLAN-avg")[2:] == ["62.0", "–", "–", "bert-base-mnli lacks mrpc.f1, qqp.f1"]
    notes = " ".join(averages.notes)
    assert "the plan's 24 points are 23 like for like" in notes
    assert "81.3 F1, is the majority class (81.2)" in notes


def test_ones_own_runs_are_means_of_seeds_in_points(write_system):
    folder = write_system("mine", 0.7, 5)
    system = read_systems([folder])[0]
    standing = standing_of(system)
    accuracy = np.mean([run.scores["accuracy"] for run in system.tasks["mrpc"]])
    assert standing.scores["mrpc.accuracy"] == pytest.approx(100 * accuracy)
    table, averages = tables([standing], PUBLISHED["bert-base"])
    row = cells(table, "mrpc", "accuracy")
    assert row[5] == f"{87.5 - 100 * accuracy:+.1f}"
    assert row[6] == "68.0"
    assert "on 200 examples; GLUE's dev set has 408" in row[-1]
    assert averages.rows == []
    assert any("mine has too few tasks for AVG8-acc" in note for note in averages.notes)


def test_either_correlation_meets_one_that_is_left_open(write_run):
    values = np.arange(50.0)
    folder = write_run("mine", "stsb", values, values**3)
    standing = standing_of(read_systems([folder])[0])
    table, _ = tables([standing], PUBLISHED["bert-base"])  # does not say which correlation
    assert cells(table, "stsb")[1:3] == ["pearson", f"{standing.scores['stsb.pearson']:.1f}"]
    table, _ = tables([standing], PUBLISHED["electra-small"])
    assert cells(table, "stsb")[1:3] == ["spearman", "100.0"]


def test_another_split_is_said_to_be_unlike():
    table, _ = tables([standing_of_published(PUBLISHED["bert-tiny"])], PUBLISHED["bert-base"])
    assert any(note.startswith("not like for like: bert-base is on GLUE's dev sets") for note in table.notes)
    row = cells(tables([standing_of_published(PUBLISHED["bert-base"])], PUBLISHED["bert-base-test"])[1], "AVG8-acc")
    assert row[4] == "–"
    assert row[5] == "bert-base is dev, bert-base-test is test; bert-base-test lacks mrpc.accuracy, qqp.accuracy"
    same, _ = tables([standing_of_published(PUBLISHED["bert-tiny"])], PUBLISHED["bert-mini"])
    assert not any("not like for like" in note for note in same.notes)


def test_a_dev_score_under_a_test_average_gets_no_gap():
    """Nine tasks by F1, all solved on the dev side: the average of the test server is named, and no gap is."""
    scores = {name: 100.0 for part in AVERAGES["AVG8-test-F1"].parts for name in part}
    own = Standing("mine", scores, {}, {}, {})
    row = cells(tables([own], PUBLISHED["bert-base-test"])[1], "AVG8-test-F1")
    assert row[2:5] == ["100.0", "79.6", "–"]
    assert row[5] == "mine is dev, AVG8-test-F1 is test and bert-base-test is test"


def test_the_list_of_published_rows_has_every_source():
    table = published_table()
    assert [row[0] for row in table.rows] == list(PUBLISHED)
    assert all(row[-1] for row in table.rows)
    assert cells(table, "bert-base")[4:7] == ["AVG8-acc", "82.5", "82.5"]

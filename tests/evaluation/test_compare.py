"""Folders of runs in, verdicts out: what is compared, what is refused, and what is said when seeds are few."""

import json

import numpy as np
import pytest
import yaml

from concept_encoder.errors import UserError
from concept_encoder.evaluation.compare import AT_MAJORITY, compare, compare_pairs
from concept_encoder.evaluation.compare_tables import tables
from concept_encoder.evaluation.metrics import compute, compute_tags
from concept_encoder.evaluation.runs import read_systems
from concept_encoder.evaluation.tables import latex, markdown


def compared(*folders):
    return compare(read_systems(folders))


def test_five_seeds_far_apart_get_a_verdict(write_system):
    found = compared(write_system("twin", 0.7, 5), write_system("woven", 0.85, 5))
    assert [(row.metric, row.system, row.seeds) for row in found.scores] == [
        ("f1", "twin", 5),
        ("f1", "woven", 5),
        ("accuracy", "twin", 5),
        ("accuracy", "woven", 5),
    ]
    accuracy = found.scores[3]
    assert accuracy.interval.low < accuracy.value < accuracy.interval.high
    assert accuracy.beside == {"majority class": 0.68, "concepts zeroed": 0.68}
    assert accuracy.remarks == []
    row = found.differences[1]
    assert (row.candidate, row.reference, row.metric, row.verdict) == ("woven", "twin", "accuracy", "higher")
    assert row.found.interval.value == pytest.approx(accuracy.value - found.scores[2].value)
    assert row.found.permutation.minimum == 2 / 32
    assert row.adjusted_p >= row.found.p
    turned = compared(*(folder for folder in reversed([write_system("a", 0.7, 5), write_system("bb", 0.85, 5)])))
    assert turned.differences[1].verdict == "lower"


def test_three_seeds_far_apart_get_none(write_system):
    found = compared(write_system("twin", 0.7, 5), write_system("woven", 0.85, 3))
    assert found.differences[0].found.interval.low > 0
    assert found.differences[0].verdict.startswith("not enough seeds (3 of 5); about ")
    one = compared(write_system("one", 0.7, 1), write_system("other", 0.85, 1))
    assert one.differences[0].verdict == "not enough seeds (1 of 5)"
    assert one.differences[0].found.permutation is None


def test_many_questions_raise_the_bar(write_system):
    folders = [write_system(name, share, 5) for name, share in (("a", 0.7), ("bb", 0.7), ("ccc", 0.71), ("dddd", 0.9))]
    rows = compared(*folders).differences
    assert len(rows) == 6
    least = min(rows, key=lambda row: row.found.p)
    assert least.adjusted_p == pytest.approx(min(1, 6 * least.found.p))


def test_a_run_that_says_one_thing_is_flagged(write_run):
    labels = (np.arange(100) < 68).astype(int)
    for seed in range(2):
        folder = write_run(f"mine/{seed}", "mrpc", labels, np.ones(100, int), seed).parent
    rows = compared(folder).scores
    assert rows[0].value == pytest.approx(2 * 68 / 168)
    for row in rows:
        assert row.remarks == [AT_MAJORITY, "2 of 2 seeds predict one class only"]
    assert compared(folder).differences == []


def test_an_undefined_metric_is_a_dash_with_its_reason(write_run):
    labels = np.linspace(0, 5, 50)
    still = write_run("still", "stsb", labels, np.full(50, 2.5))
    moving = write_run("moving", "stsb", labels, labels + np.sin(np.arange(50)))
    found = compared(still, moving)
    assert found.scores[0].value is None
    assert found.scores[0].remarks == ["undefined for seed 0: all predictions are the same, so there is no correlation"]
    assert found.differences[0].verdict.startswith("undefined for still: all predictions are the same")
    text = markdown(tables(found))
    assert "| stsb | pearson | still | – | – | 1 |" in text


def test_runs_without_predictions_are_shown_untested(write_run):
    labels = np.arange(60) % 2
    first, second = (write_run(name, "rte", labels, labels * (np.arange(60) < 50)) for name in ("old", "new"))
    (first / "predictions.json").unlink()
    found = compared(first, second)
    assert found.scores[0].interval is None
    assert found.scores[0].value == compute("accuracy", labels * (np.arange(60) < 50), labels)
    assert "no predictions.json, so no interval" in found.scores[0].remarks
    assert found.differences[0].verdict == "untested: old has no predictions.json"


def test_seeds_of_one_checkpoint_are_said_to_be(write_system):
    notes = compared(write_system("twin", 0.7, 2)).notes
    assert notes == ["the seeds of twin fine-tune one checkpoint: they say nothing of another pretraining of it"]


def test_starts_from_several_fine_tuned_runs_of_one_checkpoint_are_said_to_be_of_one(write_run, tmp_path):
    """As MNLI-first has them: each seed from the MNLI run of that seed, wherever the folder was moved."""
    labels = np.arange(40) % 2
    for seed in range(2):
        write_run(f"here/mnli-{seed}", "rte", labels, labels, seed)
        folder = write_run(f"here/rte-{seed}", "rte", labels, labels, seed)
        recipe = {"model": {"checkpoint": f"moved/from/here/mnli-{seed}"}, "training": {"seed": seed}}
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        (tmp_path / "first").mkdir(exist_ok=True)
        (tmp_path / "first" / f"seed{seed}").symlink_to(folder)
    assert compared(tmp_path / "first").notes[0].startswith("the seeds of first fine-tune one checkpoint")


def test_several_references_are_one_set_of_questions(write_system):
    """Each candidate against its own reference, in a table of its own; Holm counts all of them."""
    folders = [write_system(name, share, 5) for name, share in (("a", 0.7), ("bb", 0.6), ("ccc", 0.8), ("dddd", 0.6))]
    a, b, c, d = read_systems(folders)
    found = compare_pairs([a, b, c, d], [(a, c), (b, d)])
    assert [(row.reference, row.candidate) for row in found.differences] == [("a", "ccc"), ("bb", "dddd")] * 2
    least = min(found.differences, key=lambda row: row.found.p)
    assert least.adjusted_p == pytest.approx(4 * least.found.p)
    assert [table.title for table in tables(found)[1:]] == ["Differences from a, x 100", "Differences from bb, x 100"]


def test_a_seed_that_diverged_is_seen_and_withholds_the_verdict(write_system):
    twin, mine = write_system("twin", 0.7, 5), write_system("mine", 0.85, 5)
    for file in (mine / "mrpc" / "4").iterdir():
        file.unlink()
    (mine / "mrpc" / "4" / "diverged.json").write_text('{"tasks": ["mrpc"], "why": "nan"}')
    found = compared(twin, mine)
    assert found.scores[1].remarks == ["1 of 5 seeds diverged"]
    assert {row.verdict for row in found.differences} == {"untested: 1 of 5 seeds of mine diverged"}


def test_a_control_that_some_seeds_lack_says_of_how_many_it_is(write_run):
    labels = np.arange(60) % 2
    right = labels * (np.arange(60) < 50)
    for seed, controls in enumerate(({"concepts shuffled": {"accuracy": 0.5}}, {"concepts shuffled": {}})):
        folder = write_run(f"mine/{seed}", "rte", labels, right, seed, controls=controls)
    (row,) = compared(folder.parent).scores
    assert row.beside["concepts shuffled"] == 0.5
    assert row.remarks == ["concepts shuffled: of 1 of 2 seeds"]


def test_seeds_on_other_examples_are_no_system(write_run):
    """The labels of the first seed would be taken for all."""
    labels = np.arange(40) % 2
    write_run("mine/0", "rte", labels, labels, 0)
    folder = write_run("mine/1", "rte", 1 - labels, labels, 1)
    with pytest.raises(UserError, match=r"1: was scored on other held-out examples of rte than .*0; compare runs"):
        read_systems([folder.parent])


def test_other_tasks_beside_the_shared_ones_are_noted(write_run):
    labels = np.arange(40) % 2
    for name in ("a/rte", "b/rte"):
        write_run(name, "rte", labels, labels)
    write_run("b/mrpc", "mrpc", labels, labels)
    folder = write_run("a/x", "stsb", np.arange(40.0), np.arange(40.0)).parents[1]
    found = compared(folder / "a", folder / "b")
    assert found.notes == ["a has no run of mrpc", "b has no run of stsb"]
    assert [row.task for row in found.differences] == ["rte"]
    assert found.differences[0].found.p == 1


def change(run, file="predictions.json", **fields):
    found = json.loads((run / file).read_text())
    (run / file).write_text(json.dumps({**found, **fields}))


def other_order(run):
    change(run, label_names=["b", "a"])
    change(run.parent / "good", label_names=["a", "b"])


def result(what, **fields):
    return lambda run: change(run, "result.json", **fields), f"result.json: damaged: {what}"


def predictions(what, **fields):
    return lambda run: change(run, **fields), f"predictions.json: damaged: {what}"


def written(file, text, what):
    return lambda run: (run / file).write_text(text), f"{file}: damaged: {what}"


HALF = [0, 1] * 19
BAD_FILES = [
    *(written(file, "[" * 100_000, "is not JSON") for file in ("result.json", "predictions.json", "diverged.json")),
    written("result.json", "{", "is not JSON"),
    written("predictions.json", "5", "holds 5, expected fields"),
    *(result(f"scores.accuracy is {value!r}, expected a number from 0 to 1 or null", scores={"accuracy": value})
      for value in (60, -0.5, float("nan"), float("inf"), True, "high")),
    result("scores.pearson is -2, expected a number from -1 to 1", scores={"pearson": -2}),
    result("scores.bleu is no metric", scores={"bleu": 0.5}),
    result("scores is 'high', expected fields", scores="high"),
    result("task is 5, expected a name", task=5),
    result("kind is 'rank', expected one of", kind="rank"),
    result(r"examples is \[1\], expected fields", examples=[1]),
    result("examples.validation is -1, expected a count", examples={"validation": -1}),
    result(r"baselines is \[0.5\], expected fields", baselines=[0.5]),
    result("baselines.guess is 0.5, expected fields", baselines={"guess": 0.5}),
    result("controls.zeroed.accuracy is 60, expected a number", controls={"zeroed": {"accuracy": 60}}),
    predictions("labels is {}, expected a list", labels={}),
    predictions("labels is 'ab', expected a list", labels="ab"),
    *(predictions(rf"predictions\[38\] is {shown}, expected a class from 0 to 9999", predictions=[*HALF, value, 1])
      for value, shown in ((0.5, "0.5"), (float("nan"), "nan"), (None, "None"), ("a", "'a'"), ([1], r"\[1\]"),
                           (True, "True"), (-1, "-1"), (10**400, "1000.*"))),
    predictions(r"predictions\[38\] is 2, expected a class from 0 to 1",
                predictions=[*HALF, 2, 1], label_names=["a", "b"]),
    predictions(r"label_names is \['a', 'a'\], expected", label_names=["a", "a"]),
    written("recipe.yaml", "a: [", "is not YAML"),
    written("recipe.yaml", "training: [1]", r"training is \[1\], expected fields"),
    written("recipe.yaml", "model: mine", "model is 'mine', expected fields"),
    written("recipe.yaml", "model: {checkpoint: 5}", "model.checkpoint is 5, expected a name"),
    *(written("recipe.yaml", f"training: {{seed: {seed}}}", f"training.seed is {seed}, expected a whole number")
      for seed in ("'one'", -1)),
    *(written("diverged.json", json.dumps({"tasks": tasks}), "tasks is .*, expected a list of names")
      for tasks in ("rte", 5, [["rte"]])),
]  # fmt: skip


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda run: (run / "result.json").unlink(), "holds no result.json; has the run finished?"),
        (lambda run: (run / "result.json").write_text('{"verb": "pretrain"}'), "holds no scores of a task"),
        (lambda run: change(run, "result.json", kind="regression"), "rte is regression, in .*good classification"),
        (other_order, "has other classes of rte, or in another order, than .*good; compare runs with"),
        (lambda run: change(run, predictions=[0, 1]), "2 predictions for 40 labels"),
        (lambda run: change(run, labels=[0] * 39, predictions=[0] * 39), "39 labels, but result.json counts 40"),
        (lambda run: change(run, labels=[0] * 40), "other held-out examples of rte"),
        *BAD_FILES,
    ],
)
def test_bad_folders_are_one_line(write_run, spoil, message):
    labels = np.arange(40) % 2
    good, bad = (write_run(name, "rte", labels, labels) for name in ("good", "bad"))
    spoil(bad)
    with pytest.raises(UserError, match=message) as caught:
        compared(good, bad)
    assert "\n" not in str(caught.value)
    assert str(bad) in str(caught.value)


def test_what_cannot_be_compared_is_refused(write_run, tmp_path):
    labels = np.arange(40) % 2
    rte, mrpc = write_run("rte", "rte", labels, labels), write_run("mrpc", "mrpc", labels, labels)
    with pytest.raises(UserError, match="mrpc: has runs of mrpc, rte of rte; there is no task in common"):
        compared(rte, mrpc)
    with pytest.raises(UserError, match="given twice"):
        compared(rte, rte)
    with pytest.raises(UserError, match="nowhere: no such run folder"):
        compared(tmp_path / "nowhere")
    write_run("twice/a", "rte", labels, labels, seed=3)
    folder = write_run("twice/b", "rte", labels, labels, seed=3).parent
    with pytest.raises(UserError, match=r"b: has the task \(rte\) and seed \(3\) of .*a; give folders"):
        compared(folder)


def test_names_tell_folders_apart(write_run, tmp_path):
    labels = np.arange(10) % 2
    folders = [write_run(f"{name}/rte", "rte", labels, labels) for name in ("a", "b")]
    assert [system.name for system in read_systems(folders)] == ["a/rte", "b/rte"]


def test_markdown_and_latex_keep_awkward_names_whole(write_run):
    labels = np.arange(30) % 2
    folders = [write_run(name, "rte", labels, labels) for name in ("50%_a|b", "x&y")]
    found = tables(compared(*folders))
    text = markdown(found)
    assert r"50%\_a" not in text
    assert r"| rte | accuracy | 50%_a\|b | 100.0 |" in text
    assert all(line.count("|") - line.count(r"\|") == len(found[0].header) + 1 for line in text.splitlines()[2:4])
    source = latex(found)
    assert r"50\%\_a|b & 100.0" in source
    assert r"x\&y" in source
    assert source.count(r"\begin{tabular}{lllrrrrrl}") == 1
    assert source.count(r"\toprule") == source.count(r"\bottomrule") == 2


def test_tags_are_compared_text_by_text(tmp_path):
    names, labels = ["O", "B-PER", "I-PER"], [[1, 2, 0], [0, 0], [0, 1], [1, 0, 0, 1]] * 5
    wrong = [[0] * len(text) if i % 4 == 0 else text for i, text in enumerate(labels)]
    folders = []
    for name, predictions in (("bad", wrong), ("good", labels)):
        folder = tmp_path / name
        folder.mkdir()
        metrics = ("accuracy", "entity_f1")
        scores = compute_tags(metrics, predictions, labels, names)
        result = {"task": "names", "kind": "token_classification", "scores": scores, "examples": {"validation": 20}}
        (folder / "result.json").write_text(json.dumps(result))
        found = {"labels": labels, "predictions": predictions, "label_names": names}
        (folder / "predictions.json").write_text(json.dumps(found))
        folders.append(folder)
    found = compared(*folders)
    assert [row.interval.value for row in found.scores] == pytest.approx([row.value for row in found.scores])
    entities = found.differences[1]
    assert entities.metric == "entity_f1"
    assert entities.found.interval.value == pytest.approx(1 - 2 * 15 / 35)
    assert entities.found.interval.low > 0
    short = [text[:2] for text in labels]
    change(folders[0], labels=short, predictions=short)
    with pytest.raises(
        UserError, match=r"good: other words of names have a token within data.max_length than in .*bad"
    ):
        compared(*folders)
    change(folders[0], labels=labels, predictions=[text[:1] for text in wrong])
    with pytest.raises(UserError, match="1 predictions for 3 labels"):
        compared(*folders)
    for spoilt, what in (
        ([[3, *text[1:]] for text in labels], r"predictions\[0\]\[0\] is 3, expected a class from 0 to 2"),
        ([text[0] for text in labels], r"predictions\[0\] is 1, expected a list with a class for each word"),
        ([[] for _ in labels], "predictions has no word"),
    ):
        change(folders[0], predictions=spoilt)
        with pytest.raises(UserError, match=f"predictions.json: damaged: {what}"):
            compared(*folders)


@pytest.mark.parametrize(
    ("value", "shown"), [(float("inf"), "inf"), ("1.5", "'1.5'"), (None, "None"), (10**400, "1000.*")]
)
def test_values_to_predict_are_numbers(write_run, value, shown):
    folder = write_run("mine", "stsb", np.arange(5.0), np.arange(5.0))
    change(folder, labels=[0, 1, 2, 3, value])
    with pytest.raises(UserError, match=rf"predictions.json: damaged: labels\[4\] is {shown}, expected a number"):
        compared(folder)

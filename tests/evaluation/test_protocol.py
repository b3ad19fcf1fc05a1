"""The protocol: which runs are made, what is chosen, and what a kill, a failure or another question change."""

import json
import math
from contextlib import suppress

import numpy as np
import pytest
import yaml

from concept_encoder.errors import TrainingDiverged, UserError
from concept_encoder.evaluation.averages import AVERAGES, CORRELATION
from concept_encoder.evaluation.compare import compare
from concept_encoder.evaluation.evaluate import Evaluation
from concept_encoder.evaluation.metrics import compute_all
from concept_encoder.evaluation.outcome import _scores, outcome, record_of
from concept_encoder.evaluation.protocol import LEARNING_RATES, Protocol, choose, content_of
from concept_encoder.evaluation.runs import read_systems

LABELS = (np.arange(100) < 60).astype(int)


class Trainer:
    """Stands for fine-tuning: 3e-4 is the best rate on the selection part, and the worst on the held-out side."""

    def __init__(self, **reactions):
        self.made, self.reactions = [], reactions

    def __call__(self, run, folder):
        self.made.append((run.cell.task, run.cell.system, run.rate, run.seed, run.sections["model"]["checkpoint"]))
        for what, exception in self.reactions.items():
            if what in run.name.replace(".", "_"):
                raise exception
        metrics = ["f1", "accuracy"] if run.cell.task == "mrpc" else ["accuracy"]
        right = 0.3 if run.rate == 3e-4 else 0.9
        predictions = np.where(np.random.default_rng(run.seed).random(100) < right, LABELS, 1 - LABELS)
        quality = 1 - abs(math.log(run.rate / 3e-4))
        result = {
            "verb": "finetune", "task": run.cell.task, "kind": "classification",
            "scores": compute_all(metrics, predictions, LABELS),
            "baselines": {"majority class": compute_all(metrics, np.ones(100, int), LABELS)},
            "controls": {"concepts zeroed": compute_all(metrics, np.ones(100, int), LABELS)},
            "examples": {"train": 10, "validation": 100},
            "selection": {"metric": metrics[0], "loss": 1.0, "scores": {metrics[0]: quality}},
        }  # fmt: skip
        (folder / "checkpoints").mkdir(parents=True)
        for task in run.sections["data"].get("also", ()):
            (folder / "also" / task).mkdir(parents=True)
            (folder / "also" / task / "result.json").write_text(json.dumps({**result, "task": task}))
        (folder / "recipe.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(run.sections))))
        answers = {"labels": LABELS.tolist(), "predictions": predictions.tolist(), "label_names": ["0", "1"]}
        (folder / "predictions.json").write_text(json.dumps(answers))
        (folder / "result.json").write_text(json.dumps(result))


def evaluation(folder, tasks=("rte", "mrpc"), heads=("via_decoder",), content="abc", keep=False, **options):
    return Evaluation(folder, Protocol(tasks, heads, **options), "runs/mine", content, keep)


def test_the_grid_is_run_with_one_seed_and_the_best_rate_with_all(tmp_path):
    found, train = evaluation(tmp_path / "e", seeds=3), Trainer()
    found.run(train)
    rte = [(rate, seed) for task, _, rate, seed, _ in train.made if task == "rte"]
    assert rte == [(rate, 0) for rate in LEARNING_RATES] + [(3e-4, 1), (3e-4, 2)]
    assert len(train.made) == 2 * (len(LEARNING_RATES) + 2)
    (system,) = read_systems([tmp_path / "e"])  # compare and gap read the folder: the chosen runs, and no others
    assert system.seeds("rte") == [0, 1, 2]
    assert compare([system]).scores[0].value < 0.5, "chosen by the selection part, whatever the held-out side says"
    assert not list((tmp_path / "e" / ".runs").glob("*/checkpoints"))


def test_nothing_is_made_twice(tmp_path):
    evaluation(tmp_path / "e", seeds=2).run(Trainer())
    again = Trainer()
    evaluation(tmp_path / "e", seeds=2).run(again)
    assert again.made == []
    evaluation(tmp_path / "e", seeds=3, tasks=("rte", "mrpc")).run(again)
    assert [(task, rate, seed) for task, _, rate, seed, _ in again.made] == [("rte", 3e-4, 2), ("mrpc", 3e-4, 2)]
    evaluation(tmp_path / "e", seeds=3, learning_rates=(*LEARNING_RATES, 2.9e-4)).run(Trainer())
    assert len({path.name for path in (tmp_path / "e" / ".runs").iterdir()}) == 14


def test_another_choice_replaces_the_links(tmp_path):
    evaluation(tmp_path / "e", tasks=("rte",), seeds=3, learning_rates=(1e-4, 1e-3)).run(Trainer())
    before = (tmp_path / "e/via_decoder/rte/seed0").resolve()
    evaluation(tmp_path / "e", tasks=("rte",), seeds=2).run(Trainer())
    assert (tmp_path / "e/via_decoder/rte/seed0").resolve() != before
    assert {path.name for path in (tmp_path / "e/via_decoder/rte").iterdir()} == {"seed0", "seed1"}
    (tmp_path / "e").rename(tmp_path / "moved")
    assert read_systems([tmp_path / "moved"])[0].seeds("rte") == [0, 1]


def test_a_killed_evaluation_goes_on(tmp_path):
    train = Trainer(rte_via_decoder_0_0003_s1=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        evaluation(tmp_path / "e", seeds=2).run(train)
    again = Trainer()
    evaluation(tmp_path / "e", seeds=2).run(again)
    assert {made[:4] for made in train.made[:-1]} & {made[:4] for made in again.made} == set()
    assert read_systems([tmp_path / "e"])[0].seeds("mrpc") == [0, 1]


def test_a_failed_run_loses_its_task_alone(tmp_path):
    found = evaluation(tmp_path / "e", seeds=2)
    found.run(Trainer(rte_via_decoder_0_0001=RuntimeError("a\nbroken disk")))
    assert list(found.failed.values()) == ["a broken disk"]
    assert set(read_systems([tmp_path / "e"])[0].tasks) == {"mrpc"}
    rte, mrpc = record_of(found)["choices"]
    assert (rte["learning_rate"], mrpc["learning_rate"]) == (None, 3e-4)
    again = Trainer()
    evaluation(tmp_path / "e", seeds=2).run(again)
    assert {made[0] for made in again.made} == {"rte"}


def test_a_rate_that_diverges_is_left_out(tmp_path):
    found = evaluation(tmp_path / "e", seeds=2, tasks=("rte",))
    found.run(Trainer(rte_via_decoder_0_0003=TrainingDiverged("nan")))
    assert found.failed == {}
    assert list(found.diverged.values()) == ["nan"]
    assert record_of(found)["choices"][0]["learning_rate"] == 1e-4
    everywhere = evaluation(tmp_path / "all", tasks=("rte",))
    everywhere.run(Trainer(rte=TrainingDiverged("nan")))
    assert record_of(everywhere)["choices"][0]["learning_rate"] is None


def test_a_seed_that_diverges_at_the_chosen_rate_is_not_dropped_in_silence(tmp_path):
    """The others would stand for all: only those that survived are scored."""
    options = {"seeds": 3, "tasks": ("rte",)}
    evaluation(tmp_path / "e", **options).run(Trainer(rte_via_decoder_0_0003_s1=TrainingDiverged("nan")))
    found, again = evaluation(tmp_path / "e", **options), Trainer()
    found.run(again)
    assert again.made == []
    assert [state for *_, state in found.planned()] == ["done"] * 4 + ["diverged", "done"]
    record = record_of(found)
    assert list(record["choices"][0]["diverged"].values()) == ["nan"]
    assert record["systems"]["via_decoder"]["tasks"]["rte"]["remarks"]["accuracy"][0] == "1 of 3 seeds diverged"
    evaluation(tmp_path / "twin", content="twin", **options).run(Trainer())
    twin = evaluation(tmp_path / "twin", content="twin", **options)
    (tmp_path / "twin" / "evaluation.json").write_text(json.dumps(record_of(twin)))
    (row,) = differences(outcome(tmp_path / "e", record, "bert-base", tmp_path / "twin"))
    assert row[-1] == "untested: 1 of 3 seeds of e/via_decoder diverged"


def differences(page):
    return [row for table in page if table.title.startswith("Differences") for row in table.rows]


def test_like_is_compared_with_like(tmp_path):
    """Each head with the twin's only head, and what starts from MNLI with what does too."""
    for name, heads in (("twin", ("via_decoder",)), ("e", ("pair", "via_decoder"))):
        found = evaluation(tmp_path / name, ("mnli", "rte"), heads, name, seeds=2, mnli_first=True)
        found.run(Trainer())
        (tmp_path / name / "evaluation.json").write_text(json.dumps(record_of(found)))
    page = outcome(tmp_path / "e", record_of(found), "bert-base", tmp_path / "twin")
    tables = {table.title: table for table in page if table.title.startswith("Differences")}
    of_plain, late = (tables[f"Differences from twin/via_decoder{end}, x 100"] for end in ("", "-mnli-first"))
    assert {row[2] for row in of_plain.rows} == {"e/pair", "e/via_decoder"}
    assert {row[2] for row in late.rows} == {"e/pair-mnli-first", "e/via_decoder-mnli-first"}
    assert "corrected for all 6 questions" in late.notes[0]
    alone = outcome(tmp_path / "e", record_of(found), "bert-base")
    assert {row[2] for row in differences(alone)} == {"via_decoder", "via_decoder-mnli-first"}


def test_a_twin_without_its_like_and_of_another_protocol_is_said_to_be(tmp_path):
    for name, late in (("twin", False), ("e", True)):
        found = evaluation(tmp_path / name, ("mnli", "rte"), content=name, seeds=2 + late, mnli_first=late)
        found.run(Trainer())
        (tmp_path / name / "evaluation.json").write_text(json.dumps(record_of(found)))
    page = outcome(tmp_path / "e", record_of(found), "bert-base", tmp_path / "twin")
    assert page[0].notes == ["the twin's evaluation has another protocol: seeds"]
    assert "the twin has no like of e/via_decoder-mnli-first: no difference is given" in page[2].notes
    assert {row[2] for row in differences(page)} == {"e/via_decoder"}


def test_a_page_shows_what_was_asked_last(tmp_path):
    """And nothing of an earlier command in the same folder: its runs stay, their links do not."""
    evaluation(tmp_path / "e", ("rte", "mrpc"), ("via_decoder", "cls_query"), seeds=3).run(Trainer())
    found, train = evaluation(tmp_path / "e", ("mrpc",), seeds=2), Trainer()
    found.run(train)
    systems = record_of(found)["systems"]
    assert {
        name: {task: each["seeds"] for task, each in system["tasks"].items()} for name, system in systems.items()
    } == {"via_decoder": {"mrpc": [0, 1]}}
    assert {path.name for path in (tmp_path / "e").iterdir()} == {".runs", ".lock", "protocol.json", "via_decoder"}
    nothing = evaluation(tmp_path / "e", ("mrpc",), learning_rates=(2e-3,), seeds=2)
    nothing.run(Trainer(mrpc=TrainingDiverged("nan")))
    assert record_of(nothing)["systems"] == {}, "no rate is chosen, so no score of another rate is shown"
    assert list(record_of(nothing)["diverged"].values()) == ["nan"]
    evaluation(tmp_path / "e", ("rte", "mrpc"), ("via_decoder", "cls_query"), seeds=3).run(train)
    assert train.made == []


def test_heads_are_systems_of_their_own(tmp_path):
    evaluation(tmp_path / "e", heads=("via_decoder", "pair"), tasks=("rte", "sst2"), seeds=2).run(Trainer())
    with pytest.raises(UserError, match="give folders that hold each once"):
        read_systems([tmp_path / "e"])
    one, two = read_systems([tmp_path / "e" / "via_decoder", tmp_path / "e" / "pair"])
    assert (set(one.tasks), set(two.tasks)) == ({"rte", "sst2"}, {"rte"})  # sst2 has no pairs


def test_mnli_first_starts_each_seed_from_that_of_mnli_and_stands_apart(tmp_path):
    train = Trainer()
    found = evaluation(tmp_path / "e", tasks=("mnli", "rte", "sst2"), seeds=2, mnli_first=True)
    found.run(train)
    after = [made for made in train.made if made[1] == "via_decoder-mnli-first"]
    assert {made[0] for made in after} == {"rte"}
    assert all(f"mnli.via_decoder.0.0003.s{seed}" in checkpoint for *_, seed, checkpoint in after)
    assert {path.parent.name.split(".")[0] for path in (tmp_path / "e/.runs").glob("*/checkpoints")} == {"mnli"}
    assert {path.parent.name.split(".s")[0] for path in (tmp_path / "e/.runs").glob("*/checkpoints")} == {
        "mnli.via_decoder.0.0003"  # of the chosen rate alone
    }
    again = Trainer()
    evaluation(tmp_path / "e", tasks=("mnli", "rte", "sst2"), seeds=2, mnli_first=True).run(again)
    assert again.made == []
    pages = outcome(tmp_path / "e", record_of(found), "bert-base")
    assert any(table.title.startswith("via_decoder-mnli-first and bert-base-mnli") for table in pages)
    scores = next(table for table in pages if table.title.startswith("Scores"))
    assert {row[2] for row in scores.rows} == {"via_decoder", "via_decoder-mnli-first"}


def test_the_mismatched_side_is_scored_with_the_runs_of_mnli():
    found = Protocol(("mnli-mm", "mnli", "rte"), ("via_decoder",))
    mnli, rte = found.cells()
    assert (mnli.task, rte.task) == ("mnli", "rte")
    assert found.sections(mnli)["data"]["also"] == ["mnli-mm"]
    assert "also" not in found.sections(rte)["data"]
    (alone,) = Protocol(("mnli-mm",), ("via_decoder",)).cells()
    assert alone.task == "mnli-mm"  # without mnli it is a task as any other


@pytest.mark.parametrize("changes", [{"mnli_first": True}, {"tasks": ("mnli", "mnli-mm", "rte")}])
def test_mnli_is_trained_again_at_its_chosen_rate_alone_when_more_is_asked_of_its_weights(tmp_path, changes):
    """They are gone: it is the seeds of one rate, not the grid, that the question costs."""
    options = {"tasks": ("mnli", "rte"), "seeds": 2}
    evaluation(tmp_path / "e", **options).run(Trainer())
    found, again = evaluation(tmp_path / "e", **{**options, **changes}), Trainer()
    assert sum(not state for cell, *_, state in found.planned() if cell.task == "mnli") == 2
    found.run(again)
    assert [made[2:4] for made in again.made if made[0] == "mnli"] == [(3e-4, 0), (3e-4, 1)]
    assert {made[:2] for made in again.made} <= {("mnli", "via_decoder"), ("rte", "via_decoder-mnli-first")}
    twice = Trainer()
    evaluation(tmp_path / "e", **{**options, **changes}).run(twice)
    assert twice.made == []


@pytest.mark.parametrize("stop", [UserError("no HANS here"), KeyboardInterrupt()])
def test_a_finished_run_stands_until_it_was_made_again(tmp_path, stop):
    class Stopped(Trainer):
        def __call__(self, run, folder):
            self.made.append(run.name)
            (folder / "checkpoints").mkdir(parents=True)
            raise stop

    options = {"seeds": 3, "learning_rates": (1e-4, 3e-4)}
    evaluation(tmp_path / "e", ("mnli",), **options).run(Trainer())
    found, train = evaluation(tmp_path / "e", ("mnli", "hans"), **options), Stopped()
    with suppress(KeyboardInterrupt):
        found.run(train)
    assert len(train.made) == 1, "of the other seeds it cannot be had either"
    assert read_systems([tmp_path / "e"])[0].seeds("mnli") == [0, 1, 2]
    (again,) = (tmp_path / "e/.runs").glob(".*.again")
    (again / "checkpoints").rmdir()
    found = evaluation(tmp_path / "e", ("mnli", "hans"), **options)
    found.run(Trainer())
    assert {state for *_, state in found.planned()} == {"done"}
    assert not list((tmp_path / "e/.runs").glob(".*"))


def test_what_starts_from_an_mnli_run_that_diverged_has_diverged(tmp_path):
    options = {"tasks": ("mnli", "rte"), "seeds": 2, "mnli_first": True}
    found, again = evaluation(tmp_path / "e", **options), Trainer()
    found.run(Trainer(mnli_via_decoder_0_0003_s1=TrainingDiverged("nan")))
    assert found.failed == {}
    evaluation(tmp_path / "e", **options).run(again)
    assert again.made == []
    (_, _, late) = record_of(found)["choices"]
    assert list(late["diverged"].values()) == ["its MNLI run diverged"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"content": "other"}, "holds an evaluation of another checkpoint"),
        ({"fields": {"training.epochs": 3}}, r"holds an evaluation of another protocol \(--set\)"),
    ],
)
def test_a_folder_holds_one_checkpoint_and_one_recipe(tmp_path, changes, message):
    evaluation(tmp_path / "e", tasks=("rte",), seeds=1).run(Trainer())
    (tmp_path / "e" / "evaluation.json").write_text("{}")
    with pytest.raises(UserError, match=f"^--output: .*{message}"):
        evaluation(tmp_path / "e", tasks=("rte",), seeds=1, **changes).run(Trainer())
    assert (tmp_path / "e" / "evaluation.json").is_file(), "a command that is refused deletes nothing"
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("")
    with pytest.raises(UserError, match="something else than an evaluation"):
        evaluation(tmp_path / "thesis").run(Trainer())
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter.tex"]


def test_two_processes_do_not_share_a_folder(tmp_path):
    class Second(Trainer):
        def __call__(self, run, folder):
            (tmp_path / "e" / "evaluation.json").write_text("{}")
            with pytest.raises(UserError, match="another process evaluates in"):
                evaluation(tmp_path / "e", tasks=("rte",), seeds=1).run(Trainer())
            assert (tmp_path / "e" / "evaluation.json").is_file()
            super().__call__(run, folder)

    evaluation(tmp_path / "e", tasks=("rte",), seeds=1, learning_rates=(1e-4,)).run(Second())


def test_planned_runs_are_counted_before_they_are_made(tmp_path):
    found = evaluation(tmp_path / "e", seeds=5)
    planned = list(found.planned())
    assert len(planned) == 2 * (4 + 4)
    assert not any(done for *_, done in planned)
    assert [rate for _, rate, *_ in planned].count(None) == 8
    assert not (tmp_path / "e").exists()
    found.run(Trainer())
    assert all(done for *_, done in found.planned())
    both = evaluation(tmp_path / "b", tasks=("mnli", "rte"), seeds=5, mnli_first=True)
    assert len(list(both.planned())) == 3 * (4 + 4)
    train = Trainer()
    both.run(train)
    assert len(train.made) == 3 * (4 + 4)


def selection(score, loss):
    return {"metric": "f1", "loss": loss, "scores": {} if score is None else {"f1": score}}


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ({1e-4: selection(0.5, 1.0), 3e-4: selection(0.6, 9.0)}, 3e-4),
        ({1e-4: selection(0.5, 1.0), 3e-4: selection(0.5, 0.9)}, 3e-4),
        ({1e-4: selection(0.5, 1.0), 3e-4: selection(0.5, 1.0)}, 1e-4),
        ({1e-4: selection(None, 0.1), 3e-4: selection(-0.2, 1.0)}, 3e-4),
        ({1e-4: selection(0.5, math.nan), 3e-4: selection(0.5, 2.0)}, 3e-4),
    ],
)
def test_the_best_rate(scores, best):
    assert choose(scores) == best
    assert choose(dict(reversed(scores.items()))) == best


def test_the_record_has_what_a_score_stands_beside(tmp_path):
    found = evaluation(tmp_path / "e", tasks=("rte", "mrpc"), seeds=2)
    found.run(Trainer())
    mrpc = record_of(found)["systems"]["via_decoder"]["tasks"]["mrpc"]
    assert list(mrpc["scores"]) == ["f1", "accuracy"]
    assert mrpc["seeds"] == [0, 1]
    assert mrpc["baselines"]["majority class"]["accuracy"] == 0.6
    assert mrpc["controls"]["concepts zeroed"]["accuracy"] == 0.6
    assert mrpc["intervals"]["accuracy"][0] < mrpc["scores"]["accuracy"] < mrpc["intervals"]["accuracy"][1]
    titles = [table.title for table in outcome(tmp_path / "e", json.loads(json.dumps(record_of(found))), "bert-base")]
    assert titles[0] == "Protocol"
    assert titles[1].startswith("Learning rates, by the score on the selection part")
    assert any(title == "via_decoder and bert-base, by task" for title in titles)


def test_other_sides_are_shown_when_they_are_asked_for_and_only_then(tmp_path):
    evaluation(tmp_path / "e", ("mnli", "mnli-mm"), seeds=1, fields={}).run(Trainer())
    found = evaluation(tmp_path / "e", ("mnli",), seeds=1)
    found.run(Trainer())
    assert set(record_of(found)["systems"]["via_decoder"]["tasks"]) == {"mnli"}
    found = evaluation(tmp_path / "set", ("mnli",), seeds=1, fields={"data.also": ["snli"]})
    found.run(Trainer())
    assert set(record_of(found)["systems"]["via_decoder"]["tasks"]) == {"mnli", "snli"}


def test_the_record_has_averages_of_dev_sets_alone(tmp_path, write_run):
    """It has every score that the test server's average takes, and is not on the test server."""
    labels = np.arange(20) % 2
    scores = {name: 0.5 for each in AVERAGES.values() for part in each.parts for name in part}
    del scores[CORRELATION]  # Pearson's and Spearman's are there
    for task in {name.split(".")[0] for name in scores} - {"boolq", "multirc", "wsc"}:
        own = {name.split(".")[1]: value for name, value in scores.items() if name.split(".")[0] == task}
        file = write_run(f"e/{task}", "rte", labels, labels, scores=own) / "result.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "task": task}))
        (file.parent / "predictions.json").unlink()
    (system,) = read_systems([tmp_path / "e"])
    assert set(_scores(system)["averages"]) == {"AVG8-acc", "AVG9-dev", "PLAN-avg"}


def test_what_decides_numbers_is_in_the_name_and_nothing_else(tmp_path):
    def names(content="abc", **fields):
        found = evaluation(tmp_path, tasks=("rte",), content=content, fields=fields)
        return [run.name for cell in found.protocol.cells() for run in found._grid(cell)]

    assert names() == names(**{"training.threads": 1})
    assert not set(names()) & set(names(content="other"))
    assert not set(names()) & set(names(**{"training.epochs": 3}))


def test_a_checkpoint_is_its_content(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").write_bytes(b"weights")
    assert content_of(tmp_path / "one") == content_of(tmp_path / "two")
    (tmp_path / "two" / "model.safetensors").write_bytes(b"Weights")
    assert content_of(tmp_path / "one") != content_of(tmp_path / "two")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": ()}, "--task: name a task, or --suite glue"),
        ({"tasks": ("rtee",)}, "--task: no task 'rtee'; did you mean 'rte'"),
        ({"tasks": ("rte", "rte")}, "--task: rte is given twice"),
        ({"tasks": ("rte", "x"), "fields": {"data.train": "x.csv"}}, "--task: data.train is one task, and 2 are named"),
        ({"tasks": ("..",), "fields": {"data.train": ".."}}, "--task: '..' cannot name a folder"),
        ({"tasks": ("a/b",), "fields": {"data.train": "x.csv"}}, "--task: 'a/b' cannot name a folder"),
        ({"learning_rates": (0.0,)}, "--learning-rate: 0.0 is not between 0 and 1"),
        ({"learning_rates": (math.nan,)}, "--learning-rate: nan is not between 0 and 1"),
        ({"learning_rates": (1e99,)}, r"--learning-rate: 1e\+99 is not between 0 and 1; 3e-5 to 1e-3 are usual"),
        ({"learning_rates": (1e-4, 1e-4)}, "--learning-rate: 0.0001 is given twice"),
        ({"mnli_first": True}, "--mnli-first: needs mnli and one of rte, mrpc, stsb"),
        ({"fields": {"training.seed": 3}}, "--set: training.seed belongs to the protocol; use --seeds"),
        ({"fields": {"data.selection_fraction": None}}, "--set: data.selection_fraction is what rates are chosen on"),
    ],
)
def test_what_is_wrong_with_a_protocol_is_named(options, message):
    with pytest.raises(UserError, match=f"^{message}"):
        Protocol(**{"tasks": ("rte",), "heads": ("via_decoder",), **options})

import json

import pytest

from concept_encoder.data.tasks.config import TaskConfig
from concept_encoder.data.tasks.load import load_task, tokenize_examples
from concept_encoder.data.tasks.minimal_pairs import read_minimal_pairs
from concept_encoder.data.tasks.table import TASKS
from concept_encoder.data.tokenizer import train_tokenizer
from concept_encoder.errors import UserError
from concept_encoder.settings import from_mapping


@pytest.fixture
def jsonl(tmp_path):
    def write(name, rows):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


def rows(labels, **extra):
    return [{"text": f"text number {i}", "label": label, **extra} for i, label in enumerate(labels)]


def error(**options) -> str:
    with pytest.raises(UserError) as caught:
        load_task(TaskConfig(**options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_named_task(tiny_mirror):
    columns = {"sentence1": ["a", "b", "c"], "sentence2": ["d", "e", "f"], "label": [0, 1, -1]}
    for split in ("train", "validation"):
        tiny_mirror(f"nyu-mll/glue/mrpc/{split}", columns)
    data = load_task(TaskConfig(task="mrpc"))
    assert data.train.texts == ["a", "b"]
    assert data.train.pairs == ["d", "e"]
    assert data.train.labels == [0, 1]
    assert data.label_names == ["not_equivalent", "equivalent"]
    assert data.metrics == ("f1", "accuracy")
    assert data.unlabeled == 2


def test_a_regression_task_and_a_split_of_choice(tiny_mirror):
    columns = {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "label": [0.5, 5.0]}
    for split in ("train", "test"):
        tiny_mirror(f"nyu-mll/glue/stsb/{split}", columns)
    data = load_task(TaskConfig(task="stsb", validation="test"))
    assert data.label_names is None
    assert data.validation.labels == [0.5, 5.0]


def test_a_task_without_a_validation_split_holds_some_out(tmp_path):
    texts = [f"review {i}" for i in range(100)]
    (tmp_path / "own.jsonl").write_text("\n".join(f'{{"text": "{text}", "label": {text[-1]}}}' for text in texts))
    data = load_task(TaskConfig(train=str(tmp_path / "own.jsonl")))
    assert 0 < len(data.validation) < 30
    assert sorted(data.train.texts + data.validation.texts) == sorted(texts)


def test_imdb_is_scored_on_its_official_test_side(tiny_mirror):
    tiny_mirror("stanfordnlp/imdb/plain_text/train", {"text": ["a", "b"], "label": [0, 1]})
    tiny_mirror("stanfordnlp/imdb/plain_text/validation", {"text": ["c"], "label": [0]})
    assert "has no 'plain_text/test' of it" in error(task="imdb")
    assert load_task(TaskConfig(task="imdb", validation="validation")).validation.texts == ["c"]
    tiny_mirror("stanfordnlp/imdb/plain_text/test", {"text": ["d"], "label": [1]})
    assert load_task(TaskConfig(task="imdb")).validation.texts == ["d"]


def test_the_table_is_sound():
    for name, task in TASKS.items():
        assert task.name == name
        assert task.metrics
        assert (task.kind == "regression") <= (task.label_names is None)


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if "/" in task.source])
def test_every_named_task_reads_the_layout_of_the_hub(tiny_mirror, name):
    task = TASKS[name]
    numbers = [0.5, 5.0] if task.kind == "regression" else [1, 0]
    config, _, learned = task.train.rpartition("/")
    for folder, split in ((config or task.config, learned), (task.config, task.validation)):
        if split is not None:
            columns = {task.text: [f"{split} {i}" for i in range(40)], task.label: numbers * 20, "idx": [0] * 40}
            columns |= {task.text_pair: ["c", "d"] * 20} if task.text_pair else {}
            tiny_mirror("/".join(filter(None, (task.source, folder, split))), columns)
    data = load_task(TaskConfig(task=name))
    assert (data.label_names is None) == (task.kind == "regression")
    assert data.train.labels[:2] == numbers
    assert (data.train.pairs is None) == (task.text_pair is None)
    assert task.validation is None or data.validation.texts[0] == f"{task.validation} 0"
    assert data.train.texts[0] == f"{learned} 0"


def test_what_a_named_task_lacks_is_said(tiny_mirror):
    whole = {"premise": ["a", "b"], "hypothesis": ["c", "d"], "label": [0, 1]}
    tiny_mirror("nyu-mll/glue/mnli/train", whole)
    tiny_mirror("nyu-mll/glue/mnli/validation_mismatched", {"premise": ["a"], "hypotheses": ["b"], "label": [0]})
    assert "no column 'hypothesis'; columns: premise, hypotheses, label" in error(task="mnli-mm")
    assert "has no 'mnli/validation_matched' of it; did you mean 'mnli/validation_mismatched'" in error(task="mnli")
    tiny_mirror("nyu-mll/glue/mnli/validation_matched", {name: column[:0] for name, column in whole.items()})
    assert "nyu-mll/glue mnli/validation_matched: holds no rows" in error(task="mnli")
    tiny_mirror("nyu-mll/glue/ax/test", {**whole, "label": [-1, -1]})
    assert "ax: no labeled validation rows" in error(task="ax")


@pytest.mark.parametrize(
    ("labels", "names", "numbers"),
    [
        (["good", "bad", "good"], ["bad", "good"], [1, 0, 1]),
        ([10, 2, 2], ["2", "10"], [1, 0, 0]),
        (["10", "2", "2"], ["2", "10"], [1, 0, 0]),
        ([True, False, True], ["0", "1"], [1, 0, 1]),
        ([1.0, 0.0, 1.0], ["0", "1"], [1, 0, 1]),
    ],
)
def test_labels_of_own_files(jsonl, labels, names, numbers):
    path = jsonl("train.jsonl", rows(labels))
    data = load_task(TaskConfig(train=path, validation=path))
    assert data.label_names == names
    assert data.train.labels == numbers
    assert data.name == "train.jsonl"


def test_csv_labels_and_column_names(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("a,b,score\nx,y,1.5\nz,w,\nz,v,2\n")
    options = {"train": str(path), "validation": str(path), "text": "a", "text_pair": "b", "label": "score"}
    data = load_task(TaskConfig(**options, kind="regression"))
    assert data.train.labels == [1.5, 2.0]
    assert data.train.pairs == ["y", "v"]
    assert data.unlabeled == 2


def test_max_examples_and_hold_out_are_fixed(jsonl):
    many = rows([0, 1] * 100)
    first = load_task(TaskConfig(train=jsonl("a.jsonl", many), max_examples=10))
    second = load_task(TaskConfig(train=jsonl("b.jsonl", many[::-1]), max_examples=10))
    assert len(first.train) == len(first.validation) == 10
    assert set(first.train.texts) == set(second.train.texts)
    assert not set(first.train.texts) & set(first.validation.texts)


@pytest.mark.parametrize(
    ("train", "options", "expected"),
    [
        (
            rows(["good", "bad"]),
            {"kind": "regression"},
            "train.jsonl:1: column 'label' holds 'good', expected a number",
        ),
        (rows([0.5, 1.0]), {}, "train.jsonl:1: column 'label' holds 0.5, which is no class"),
        (rows([[1], [2]]), {}, "holds [1], which is no class"),
        (rows([0, 10**400]), {}, "train.jsonl:2: column 'label' holds 1000"),
        (rows([0, 10**400]), {"kind": "regression"}, "train.jsonl:2: column 'label' holds 1000"),
        (rows([0, float("inf")]), {}, "holds inf, which is no class"),
        (rows([1, 1]), {}, "every training row has the label 1"),
        (rows([0, 1]), {"label": "class"}, "no column 'class'; columns: text, label"),
        (rows([0, 1]), {"text": "label"}, "column 'label' holds 0, expected text"),
        (rows([None, -1]), {}, "no labeled training rows"),
        (rows([0, 1]), {"validation_fraction": 1e-9, "validation": None}, "no labeled validation rows"),
    ],
)
def test_errors(jsonl, train, options, expected):
    path = jsonl("train.jsonl", train)
    assert expected in error(**{"train": path, "validation": path, **options})


def test_a_label_unseen_in_training(jsonl):
    train, validation = jsonl("train.jsonl", rows(["a", "b"])), jsonl("held.jsonl", rows(["a", "c"]))
    assert "held.jsonl:2: label 'c' is not among those of training: a, b" in error(train=train, validation=validation)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "task: name a task"),
        ({"task": "cola", "train": "x"}, "task: name a task"),
        ({"task": "colla"}, "task: no task 'colla'; did you mean 'cola'"),
        ({"train": ""}, "train: is empty; name a file, or leave it out"),
        ({"train": "x.csv", "validation": ""}, "validation: is empty; name a file, or leave it out"),
        ({"task": "cola", "max_length": 1}, "max_length"),
        ({"task": "cola", "max_examples": 0}, "max_examples"),
        ({"task": "cola", "validation_fraction": 1.0}, "validation_fraction"),
    ],
)
def test_values_are_checked(options, expected):
    with pytest.raises(ValueError, match=expected):
        TaskConfig(**options)


def test_tokenize_examples(jsonl, sentences):
    tokenizer = train_tokenizer(sentences, "wordpiece", 200)
    pairs = [{"text": text, "other": "a [SEP] b", "label": i % 2} for i, text in enumerate(sentences[:20])]
    path = jsonl("pairs.jsonl", pairs)
    data = load_task(TaskConfig(train=path, validation=path, text_pair="other"))
    table = tokenize_examples(data.train, tokenizer, max_length=16)
    assert set(table.column_names) == {"input_ids", "attention_mask", "token_type_ids", "labels"}
    assert table["labels"][:] == data.train.labels
    lengths = {len(ids) for ids in table["input_ids"]}
    assert max(lengths) == 16
    assert len(lengths) > 1  # not padded
    for row in table:
        assert row["input_ids"].count(tokenizer.sep_token_id) == 2
        assert len(row["token_type_ids"]) == len(row["attention_mask"]) == len(row["input_ids"])


@pytest.mark.parametrize(
    "name", ["cola", "mrpc", "stsb", "sick-relatedness", "sick-entailment", "listops", "novel-author"]
)
def test_the_real_mirror(mirror, name):
    data = load_task(TaskConfig(task=name, max_examples=200))
    assert 0 < len(data.validation) <= len(data.train) == 200


def test_a_selection_part_is_cut_from_the_training_side_alone(jsonl):
    texts = [{"text": f"text {i // 2}", "label": i % 2} for i in range(400)]  # every text twice
    train, validation = jsonl("train.jsonl", texts), jsonl("validation.jsonl", texts[:50])
    options = {"train": train, "validation": validation}
    whole, cut = (load_task(TaskConfig(**options, **extra)) for extra in ({}, {"selection_fraction": 0.2}))
    assert whole.selection is None
    assert cut.validation == whole.validation
    assert not set(cut.train.texts) & set(cut.selection.texts)
    assert sorted([*cut.train.texts, *cut.selection.texts]) == sorted(whole.train.texts)
    assert 40 < len(cut.selection) < 120
    more = load_task(TaskConfig(**options, selection_fraction=0.3))
    assert set(cut.selection.texts) < set(more.selection.texts)
    assert len(load_task(TaskConfig(**options, selection_fraction=0.2, max_examples=30)).selection) == 30


def test_the_selection_part_does_not_follow_from_the_held_out_part(jsonl):
    options = {"train": jsonl("train.jsonl", [{"text": f"text {i}", "label": i % 2} for i in range(1000)])}
    data = load_task(TaskConfig(**options, validation_fraction=0.5, selection_fraction=0.3))
    assert 100 < len(data.selection) < 200  # by the same hash it would be empty


@pytest.mark.parametrize(
    ("fraction", "expected"), [(1e-9, "data.selection_fraction: 1e-09 of 40 training rows is none; raise it"),
                               (0.99999999, "of 40 training rows is all; lower it"),
                               (1.5, "data.selection_fraction: 1.5 is not inside (0, 1); try 0.1")]
)  # fmt: skip
def test_a_selection_part_has_rows_on_both_sides(jsonl, fraction, expected):
    path = jsonl("train.jsonl", [{"text": f"text {i}", "label": i % 2} for i in range(40)])
    with pytest.raises(ValueError, match="selection_fraction") as caught:
        load_task(from_mapping(TaskConfig, {"train": path, "validation": path, "selection_fraction": fraction}, "data"))
    assert expected in str(caught.value)


def test_paradigms_are_named_by_their_whole_stems(tmp_path):
    for name in ("v1.adjunct.csv", "v1.island.csv", "v1.0/a.csv", "v1.0/b.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"sentence_good,sentence_bad\n{name},b\n")
    found = read_minimal_pairs(str(tmp_path))
    assert {name: pairs[0].good for name, pairs in found.items()} == {
        "v1.adjunct": "v1.adjunct.csv", "v1.island": "v1.island.csv", "v1.0/a": "v1.0/a.csv", "v1.0/b": "v1.0/b.csv"
    }  # fmt: skip
    (tmp_path / "v1.island.jsonl").write_text('{"sentence_good": "a", "sentence_bad": "b"}\n')
    with pytest.raises(UserError, match=r"v1.island.jsonl: is paradigm 'v1.island', as .*v1.island.csv is; rename one"):
        read_minimal_pairs(str(tmp_path))

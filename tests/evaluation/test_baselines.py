import pytest

from concept_encoder.data.tagging import TaggedExamples
from concept_encoder.data.tasks import Examples, TaskData
from concept_encoder.evaluation.baselines import bag_of_words, baselines, majority


def task(texts, labels, kind="classification", metrics=("accuracy", "f1"), pairs=None):
    examples = Examples(texts, pairs, labels)
    return TaskData("toy", kind, metrics, examples, examples, ["0", "1"], 0)


def test_majority_of_classes():
    assert majority(task(["a", "b", "c", "d"], [1, 1, 1, 0])) == {
        "accuracy": 0.75,
        "f1": pytest.approx(6 / 7),
    }


def test_majority_of_numbers_has_no_correlation():
    data = task(["a", "b"], [1.0, 2.0], "regression", ("pearson", "spearman"))
    assert majority(data) == {"pearson": None, "spearman": None}


def test_bag_of_words_reads_words_but_not_their_order():
    seen = task(["a good film", "a bad film", "good fun", "bad luck"] * 5, [1, 0, 1, 0] * 5)
    assert bag_of_words(seen) == {"accuracy": 1.0, "f1": 1.0}
    order = task(["dog bites man", "man bites dog"] * 10, [0, 1] * 10)
    assert bag_of_words(order)["accuracy"] == 0.5


def test_bag_of_words_sees_digits_and_both_texts_of_a_pair():
    texts = ["[MAX 2 9 ]", "[MAX 1 3 ]"] * 10
    assert bag_of_words(task(texts, [1, 0] * 10))["accuracy"] == 1.0
    assert bag_of_words(task(["same"] * 20, [1, 0] * 10, pairs=["yes", "no"] * 10))["accuracy"] == 1.0


def test_bag_of_words_for_numbers():
    data = task(["low", "middle", "high"] * 5, [1.0, 2.0, 3.0] * 5, "regression", ("pearson", "spearman"))
    assert bag_of_words(data)["pearson"] > 0.99


def test_baselines_of_tagging():
    """`can` is mostly AUX, `fish` is NOUN as often as VERB (the smaller number wins), `jump` was never seen."""
    train = TaggedExamples(
        [["I", "can", "fish"], ["a", "can"], ["you", "can"], ["a", "fish"], ["I", "Can"]],
        [[2, 0, 3], [1, 1], [2, 0], [1, 1], [2, 1]],
    )
    held_out = TaggedExamples([["you", "can", "fish"], ["a", "jump"]], [[2, 0, 3], [1, 1]])
    tags = ["AUX", "NOUN", "PRON", "VERB"]
    scores = baselines(TaskData("toy", "token_classification", ("accuracy",), train, held_out, tags, 0))
    assert scores == {
        "commonest tag": {"accuracy": pytest.approx(2 / 5)},  # NOUN
        "commonest tag of the word": {"accuracy": pytest.approx(4 / 5)},  # all but fish
    }


def test_which_baselines_stand_beside_a_task():
    assert set(baselines(task(["a", "b"] * 4, [1, 0] * 4))) == {"majority class", "bag of words"}

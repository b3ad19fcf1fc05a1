import pytest
import torch

from concept_encoder.data.tasks.load import Examples, TaskData
from concept_encoder.data.tasks.tagging import TaggedExamples
from concept_encoder.errors import UserError
from concept_encoder.evaluation.baselines import bag_of_words, baselines, majority
from concept_encoder.evaluation.neural_baselines import BiLSTM


def task(texts, labels, kind="classification", metrics=("accuracy", "f1"), pairs=None):
    examples = Examples(texts, pairs, labels)
    return TaskData("toy", kind, metrics, examples, examples, ["0", "1"], 0)


def test_majority_of_classes():
    assert majority(task(["a", "b", "c", "d"], [1, 1, 1, 0])) == {
        "accuracy": 0.75,
        "f1": pytest.approx(6 / 7),
    }


def test_the_constant_of_f1_is_class_1_even_where_it_is_rare():
    found = majority(task(["a", "b", "c", "d"], [1, 0, 0, 0]))
    assert found == {"accuracy": 0.75, "f1": pytest.approx(2 / 5)}  # all of the commonest class, 0, would have 0


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


ANIMALS = ["dog", "cat", "cow", "hen", "fox"]


def order_task(kind="classification", **options):
    """Who bites whom: the words are always the same two, only their order says."""
    texts = [f"the {a} bites the {b}" for a in ANIMALS for b in ANIMALS if a != b]
    labels = [int(ANIMALS.index(text.split()[1]) < ANIMALS.index(text.split()[-1])) for text in texts]
    return task(texts * 6, list(map(float, labels * 6)) if kind == "regression" else labels * 6, kind, **options)


def test_only_a_reader_of_order_solves_a_task_of_order():
    found = baselines(order_task(), ["majority class", "bag of words", "cbow", "bilstm"])
    assert found["bilstm"]["accuracy"] == 1.0
    assert found["cbow"]["accuracy"] < 0.75
    assert found["bag of words"]["accuracy"] < 0.75
    numbers = order_task("regression", metrics=("pearson",))
    assert baselines(numbers, ["bilstm"])["bilstm"]["pearson"] > 0.9
    assert abs(baselines(numbers, ["cbow"])["cbow"]["pearson"] or 0) < 0.5


def test_words_are_enough_for_cbow_and_pairs_are_compared():
    texts = ["a good film", "a bad film", "good fun", "bad luck"] * 10
    assert baselines(task(texts, [1, 0, 1, 0] * 10), ["cbow"])["cbow"] == {"accuracy": 1.0, "f1": 1.0}
    same = task(ANIMALS * 20, [1, 0, 1, 0, 1] * 20, pairs=["dog", "fox", "cow", "dog", "fox"] * 20)
    assert baselines(same, ["bilstm"])["bilstm"]["accuracy"] == 1.0


def test_trained_baselines_follow_the_seed_and_leave_others_alone():
    data = order_task("regression", metrics=("pearson",))
    torch.manual_seed(7)
    first = baselines(data, ["cbow"], seed=1)
    after = torch.rand(1)
    torch.manual_seed(7)
    assert torch.rand(1) == after, "the caller's random numbers are not used up"
    assert baselines(data, ["cbow"], seed=1) == first
    assert baselines(data, ["cbow"], seed=2) != first


def test_a_batch_changes_no_answer_of_a_bilstm():
    """Padding is not read: a text alone and beside a longer one get the same vector."""
    torch.manual_seed(0)
    reader, x_BND = BiLSTM(), torch.randn(2, 9, 100)
    together = reader(x_BND, torch.tensor([4, 9]))
    torch.testing.assert_close(together[:1], reader(x_BND[:1, :4], torch.tensor([4])))


def test_unknown_baselines_are_answered_with_the_known():
    with pytest.raises(UserError, match="baseline: toy has no 'lstm'; did you mean 'bilstm'"):
        baselines(task(["a", "b"] * 4, [1, 0] * 4), ["lstm"])

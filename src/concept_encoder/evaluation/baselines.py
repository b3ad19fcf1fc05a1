"""What a score stands beside: guessing without reading, a bag of words, and small readers trained on the spot."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import chain

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

from concept_encoder.data.tasks.load import Examples, TaskData
from concept_encoder.errors import UserError, nearest
from concept_encoder.evaluation.metrics import compute, compute_all, scorer
from concept_encoder.evaluation.neural_baselines import WORDS, BiLSTM, MeanOfWords, learn_and_predict

Scores = dict[str, float | None]


def baselines(data: TaskData, names: Sequence[str] | None = None, seed: int = 0) -> dict[str, Scores]:
    """The scores that any model of this task has to beat, by name.

    Args:
        names: of `baselines_of(data)`; None for the quick ones, its first two.
        seed: of those that are trained by gradient descent.

    Raises:
        UserError: a name that this kind of task has no baseline of.
    """
    known = baselines_of(data)
    for name in names or ():
        if name not in known:
            raise UserError(f"baseline: {data.name} has no {name!r}; {nearest(name, known)}")
    return {name: known[name](data, seed) for name in (names or list(known)[:2])}


def baselines_of(data: TaskData) -> dict[str, Callable[[TaskData, int], Scores]]:
    """All baselines of this kind of task, the quick ones first."""
    return TAG_BASELINES if data.kind == "token_classification" else TEXT_BASELINES


def majority(data: TaskData) -> Scores:
    """The commonest class of training (the mean label in regression) as the prediction for every example or word.

    Of F1, which asks for class 1 alone, it is the best constant: class 1 everywhere. All of class 0 has an F1 of 0,
    which any guess beats.
    """
    labels = data.train.labels
    if data.kind == "token_classification":
        guess = _commonest(chain.from_iterable(labels))
        guesses = [[guess] * len(tags) for tags in data.validation.labels]
    else:
        guesses = [np.mean(labels) if data.kind == "regression" else _commonest(labels)] * len(data.validation)
    found = scorer(data)(data.metrics, guesses, data.validation.labels)
    if "f1" in found:
        found["f1"] = compute("f1", [1] * len(data.validation), data.validation.labels)
    return found


def tag_of_word(data: TaskData) -> Scores:
    """For each word, spelt the same, its commonest tag in training; the commonest of all for a word never seen.

    The bag of words of tagging: nothing but the word itself is read. Source: the usual baseline of part-of-speech
    tagging (Charniak et al. 1993, "Equations for part-of-speech tagging").
    """
    seen: dict[str, list[int]] = defaultdict(list)
    for words, tags in zip(data.train.words, data.train.labels):
        for word, tag in zip(words, tags):
            seen[word].append(tag)
    best = {word: _commonest(tags) for word, tags in seen.items()}
    anywhere = _commonest(chain.from_iterable(data.train.labels))
    guesses = [[best.get(word, anywhere) for word in words] for words in data.validation.words]
    return scorer(data)(data.metrics, guesses, data.validation.labels)


def bag_of_words(data: TaskData) -> Scores:
    """TF-IDF of words and punctuation, then logistic regression (ridge regression where labels are numbers).

    The two texts of a pair have a set of features each, so what they share is not seen: no more than a bag.
    """
    vectorizer = TfidfVectorizer(sublinear_tf=True, max_features=50_000, token_pattern=WORDS)
    vectorizer.fit([*data.train.texts, *(data.train.pairs or [])])
    # newton-cg is an order of magnitude faster here than the default solver
    classifier = LogisticRegression(C=10, solver="newton-cg", tol=1e-3)
    model = Ridge() if data.kind == "regression" else classifier
    model.fit(_features(vectorizer, data.train), data.train.labels)
    predictions = model.predict(_features(vectorizer, data.validation))
    return compute_all(data.metrics, predictions, data.validation.labels)


def _features(vectorizer: TfidfVectorizer, examples: Examples) -> sparse.csr_matrix:
    """Features [examples, words], or [examples, 2 words] of pairs."""
    texts = vectorizer.transform(examples.texts)
    return texts if examples.pairs is None else sparse.hstack([texts, vectorizer.transform(examples.pairs)]).tocsr()


def cbow(data: TaskData, seed: int) -> Scores:
    """The mean of word vectors learned on the spot, then a linear layer (CBoW of the GLUE baselines, no GloVe)."""
    return compute_all(data.metrics, learn_and_predict(MeanOfWords, data, seed), data.validation.labels)


def bilstm(data: TaskData, seed: int) -> Scores:
    """A BiLSTM over such vectors: one that reads the order of words, and was pretrained on nothing."""
    return compute_all(data.metrics, learn_and_predict(BiLSTM, data, seed), data.validation.labels)


TEXT_BASELINES: dict[str, Callable[[TaskData, int], Scores]] = {
    "majority class": lambda data, seed: majority(data),
    "bag of words": lambda data, seed: bag_of_words(data),
    "cbow": cbow,
    "bilstm": bilstm,
}
TAG_BASELINES: dict[str, Callable[[TaskData, int], Scores]] = {
    "commonest tag": lambda data, seed: majority(data),
    "commonest tag of the word": lambda data, seed: tag_of_word(data),
}


def _commonest(labels: Iterable[int]) -> int:
    """The smaller class number of two that are as common."""
    return int(np.bincount(list(labels)).argmax())

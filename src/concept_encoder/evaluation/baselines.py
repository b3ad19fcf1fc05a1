"""What a score stands beside: guessing without reading the text, and reading it as a bag of words."""

from collections import defaultdict
from collections.abc import Iterable
from itertools import chain

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

from concept_encoder.data.tasks import Examples, TaskData
from concept_encoder.evaluation.metrics import compute_all, scorer

Scores = dict[str, float | None]


def baselines(data: TaskData) -> dict[str, Scores]:
    """The scores that any model of this task has to beat, by name."""
    if data.kind == "token_classification":
        return {"commonest tag": majority(data), "commonest tag of the word": tag_of_word(data)}
    return {"majority class": majority(data), "bag of words": bag_of_words(data)}


def majority(data: TaskData) -> Scores:
    """The commonest class of training (the mean label in regression) as the prediction for every example or word."""
    labels = data.train.labels
    if data.kind == "token_classification":
        guess = _commonest(chain.from_iterable(labels))
        guesses = [[guess] * len(tags) for tags in data.validation.labels]
    else:
        guesses = [np.mean(labels) if data.kind == "regression" else _commonest(labels)] * len(data.validation)
    return scorer(data)(data.metrics, guesses, data.validation.labels)


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
    vectorizer = TfidfVectorizer(sublinear_tf=True, max_features=50_000, token_pattern=r"\w+|[^\w\s]")
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


def _commonest(labels: Iterable[int]) -> int:
    """The smaller class number of two that are as common."""
    return int(np.bincount(list(labels)).argmax())

"""What a score stands beside: guessing without reading the text, and reading it as a bag of words."""

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

from concept_encoder.data.tasks import Examples, TaskData
from concept_encoder.evaluation.metrics import compute_all

Scores = dict[str, float | None]


def majority(data: TaskData) -> Scores:
    """The commonest class of training (the mean label in regression) as the prediction for every example."""
    labels = np.asarray(data.train.labels)
    guess = labels.mean() if data.kind == "regression" else np.bincount(labels).argmax()
    return compute_all(data.metrics, np.full(len(data.validation), guess), data.validation.labels)


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

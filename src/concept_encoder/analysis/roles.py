"""Do concepts attend to word classes? Selectivity against shuffled tags, corrected for all the questions.

A concept's attention on a word is the mean over the word's tokens (a word is not favoured for being split),
as a share of the sentence's words. Summed over the words of a class it is compared with what it would be if
the tags of each sentence were shuffled within it. Mean and variance of that permutation are known exactly:
for a sentence of W words, k of them in the class, and attention a_w that sums to 1,

    mean = k / W,    variance = k (W - k) / (W - 1) * (mean of a_w^2 - 1 / W^2),

summed over sentences. z = (observed - mean) / sd is normal over many sentences; one-sided p-values
("attends *more*") are corrected over all concepts x classes by Benjamini & Hochberg (1995). The same code on really
shuffled tags is the control: it should find nothing. **lift** = observed / mean: 2 is twice the attention of chance.

A class that likes a place in the sentence (a pronoun comes first) is also found by a concept that looks at that place:
read the lift beside the position score.

Shapes: S sentences, C concepts, W words of a sentence, X words of all sentences, U classes.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy.stats import false_discovery_control, norm

from concept_encoder.analysis.capture import Progress
from concept_encoder.analysis.subject import Subject, batches, tokenize
from concept_encoder.analysis.words import words_of_tokens
from concept_encoder.data.conllu import TaggedSentence

SENTENCES_NEEDED = 50
WORDS_NEEDED = 50  # a rarer class is left out
FALSE_DISCOVERIES = 0.05
CONTROLS = 10  # how often the tags are really shuffled


def word_attention(
    subject: Subject, sentences: Sequence[TaggedSentence], progress: Progress | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The last read's attention on the words of all sentences.

    Returns:
        a_CX: each concept's attention (mean of heads), summing to 1 over a sentence's words, 0 for an absent concept.
        tag_X: the words' tags. Words that the model's length cuts off are left out.
        sentence_X: which sentence a word is of.
    """
    tokenized = tokenize(subject, [sentence.text for sentence in sentences])
    parts, tags, owners, done = [], [], [], 0
    for batch in batches(subject, tokenized):
        states = subject.states(batch.inputs, attention=True)
        read_BCN = states.reads[-1].mean(1).double()
        read_BCN = (read_BCN * states.mask_BC[..., None]).numpy()
        for row, number in enumerate(batch.index):
            sentence = sentences[number]
            word_N = words_of_tokens(tokenized.offsets[number], sentence.spans)
            a_CW, kept_W = _per_word(read_BCN[row], word_N, len(sentence.tags))
            parts.append(a_CW)
            tags += [sentence.tags[word] for word in kept_W]
            owners += [number] * len(kept_W)
        done += len(batch.index)
        if progress:
            progress("word classes", done, len(tokenized))
    concepts = max(part.shape[0] for part in parts)
    a_CX = np.concatenate([np.pad(part, ((0, concepts - len(part)), (0, 0))) for part in parts], axis=1)
    return a_CX, np.array(tags), np.array(owners)


def _per_word(a_CN: np.ndarray, word_N: list[int | None], words: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean attention over a word's tokens, as shares of the words that have tokens; and which those are."""
    member_NW = np.zeros((a_CN.shape[1], words))
    for token, word in enumerate(word_N):
        if word is not None:
            member_NW[token, word] = 1
    kept_W = np.flatnonzero(member_NW.sum(0))
    a_CW = a_CN @ (member_NW[:, kept_W] / member_NW[:, kept_W].sum(0))
    return a_CW / np.maximum(a_CW.sum(1, keepdims=True), 1e-12), kept_W


def selectivity(a_CX: np.ndarray, tag_X: np.ndarray, sentence_X: np.ndarray, *, seed: int = 0) -> dict:
    """Lift and significance of each concept for each class, with the shuffled control; JSON-able."""
    sentences = len(np.unique(sentence_X))
    counts = Counter(tag_X.tolist())
    classes = [tag for tag, count in counts.most_common() if count >= WORDS_NEEDED]
    report = {
        "sentences": sentences,
        "words": len(tag_X),
        "false_discovery_rate": FALSE_DISCOVERIES,
        "notes": [],
    }
    if sentences < SENTENCES_NEEDED or not classes:
        need = f"word classes need at least {SENTENCES_NEEDED} sentences and {WORDS_NEEDED} words of a class"
        report["notes"].append(f"{need}; got {sentences} sentences, {max(counts.values(), default=0)} words")
        return report
    if rare := sorted(set(counts) - set(classes)):
        report["notes"].append(f"left out, fewer than {WORDS_NEEDED} words: {', '.join(rare)}")
    lift_CU, q_CU = _against_shuffling(a_CX, tag_X, sentence_X, classes)
    if unjudged := int(np.isnan(lift_CU).all(1).sum()):
        report["notes"].append(
            f"{unjudged} concepts attend to words in fewer than {SENTENCES_NEEDED} sentences: not judged"
        )
    rng = np.random.default_rng(seed)
    control = []
    for _ in range(CONTROLS):
        shuffled_X = _shuffle_within(tag_X, sentence_X, rng)
        control.append(int((_against_shuffling(a_CX, shuffled_X, sentence_X, classes)[1] <= FALSE_DISCOVERIES).sum()))
    significant_CU = q_CU <= FALSE_DISCOVERIES
    return report | {
        "classes": classes,
        "counts": [counts[tag] for tag in classes],
        "lift": [[None if lift != lift else round(lift, 4) for lift in lift_U] for lift_U in lift_CU.tolist()],
        "significant": significant_CU.tolist(),
        "roles": _roles(lift_CU, q_CU, classes),
        "selective_concepts": int(significant_CU.any(1).sum()),
        "significant_pairs": int(significant_CU.sum()),
        "significant_pairs_shuffled": float(np.mean(control)),
        "pairs": int(significant_CU.size),
    }


def _against_shuffling(a_CX, tag_X, sentence_X, classes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Lift (NaN where not judged) and corrected one-sided p-values, each [C, U]."""
    starts_S = np.flatnonzero(np.r_[True, np.diff(sentence_X) != 0])
    assert len(starts_S) == len(np.unique(sentence_X)), "the words of a sentence must stand together"
    size_S = np.diff(np.r_[starts_S, len(sentence_X)]).astype(float)
    member_XU = (tag_X[:, None] == np.array(classes)).astype(float)
    k_SU = np.add.reduceat(member_XU, starts_S)
    total_CS = np.add.reduceat(a_CX, starts_S, axis=1)
    square_CS = np.add.reduceat(a_CX**2, starts_S, axis=1)
    spread_CS = np.maximum(square_CS / size_S - (total_CS / size_S) ** 2, 0)
    expected_CU = (total_CS / size_S) @ k_SU
    variance_CU = spread_CS @ (k_SU * (size_S[:, None] - k_SU) / np.maximum(size_S[:, None] - 1, 1))
    observed_CU = a_CX @ member_XU
    # The normal distribution needs many sentences: a concept that exists in a few long ones is not judged.
    judged_C1 = (total_CS > 0).sum(1, keepdims=True) >= SENTENCES_NEEDED
    known_CU = (variance_CU > 1e-12) & (expected_CU > 0) & judged_C1
    lift_CU, q_CU = np.full(known_CU.shape, np.nan), np.ones(known_CU.shape)
    lift_CU[known_CU] = observed_CU[known_CU] / expected_CU[known_CU]
    z_X = (observed_CU - expected_CU)[known_CU] / np.sqrt(variance_CU[known_CU])
    q_CU[known_CU] = false_discovery_control(norm.sf(z_X)) if len(z_X) else 1.0
    return lift_CU, q_CU


def _shuffle_within(tag_X: np.ndarray, sentence_X: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The tags of each sentence in random order."""
    first_X = np.r_[0, np.cumsum(np.diff(sentence_X) != 0)]
    return tag_X[np.lexsort((rng.random(len(tag_X)), first_X))]


def _roles(lift_CU: np.ndarray, q_CU: np.ndarray, classes: list[str]) -> list[dict]:
    """Each selective concept with the class it prefers most, the strongest preference first."""
    roles = []
    for concept, (lift_U, q_U) in enumerate(zip(lift_CU, q_CU)):
        lift_U = np.where(q_U <= FALSE_DISCOVERIES, lift_U, 0)
        best = int(lift_U.argmax())
        if lift_U[best] > 0:
            role = {"concept": concept, "class": classes[best], "lift": round(float(lift_U[best]), 4)}
            roles.append(role | {"q": float(f"{q_U[best]:.3g}")})
    return sorted(roles, key=lambda role: -role["lift"])

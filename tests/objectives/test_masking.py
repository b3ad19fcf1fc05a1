"""Maskings: whole words of every tokenizer family, spans inside texts, distributions, n-grams, exact budgets."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from concept_encoder.data.tokenizer import train_tokenizer
from concept_encoder.errors import UserError
from concept_encoder.model.losses import IGNORE
from concept_encoder.objectives.masked_lm import MaskedLMCollator, ObjectiveConfig
from concept_encoder.objectives.masking import MASKINGS, PLACE
from concept_encoder.objectives.masking_ngrams import NgramFile, WordNumbers
from concept_encoder.objectives.masking_units import MaskableText, fit_whole, longest_matches
from concept_encoder.objectives.masking_words import fingerprint, word_starts

LINES = ["the quick brown fox jumps over the lazy dog", "zażółć gęślą jaźń", "don't 42 (we're) naïve, 3.14!"]
FAMILIES = {kind: train_tokenizer(LINES * 20, kind, 300) for kind in ("wordpiece", "bpe", "unigram")}
every_family = pytest.mark.parametrize("tokenizer", FAMILIES.values(), ids=FAMILIES)
WORDS = st.text(st.sampled_from("abcdefghijklmnopqrstuvwxyzżąé0123456789'-,.!"), min_size=1, max_size=9)


def packed(tokenizer, texts: list[str]) -> list[int]:
    """[CLS] text [SEP] text [SEP] …"""
    ids = [token for text in texts for token in tokenizer(text)["input_ids"][1:]]
    return [tokenizer.cls_token_id, *ids]


def hidden_of(tokenizer, ids: list[int], config: ObjectiveConfig, place: int = 0, seed: int = 0) -> np.ndarray:
    batch = MaskedLMCollator(tokenizer, config, seed)([{"input_ids": ids, PLACE: place}])
    hidden = np.zeros(len(ids), dtype=bool)
    hidden[batch["label_index"][0][batch["labels"][0] != IGNORE].numpy()] = True
    return hidden


def text_of(lengths: list[int], seed: int = 0, rows: int = 1) -> MaskableText:
    """Rows of texts of these lengths, with special tokens between them left out."""
    rng = np.random.default_rng(seed)
    begins = np.zeros(sum(lengths) * rows, dtype=bool)
    begins[np.cumsum([0, *(lengths * rows)[:-1]])] = True
    row = np.repeat(np.arange(rows), sum(lengths))
    return MaskableText(np.zeros(len(row), dtype=int), row, begins, rng.random((2, len(row))))


@every_family
@settings(max_examples=40)
@given(
    texts=st.lists(st.lists(WORDS, min_size=1, max_size=8), min_size=1, max_size=3),
    rate=st.sampled_from([0.15, 0.4]),
    cut=st.integers(1, 4),
)
def test_words_stay_whole(tokenizer, texts, rate, cut):
    """The words are those of the tokenizer itself (`word_ids`); a row that begins inside a word has its rest whole."""
    specials, words, ids = set(tokenizer.all_special_ids), [None], [tokenizer.cls_token_id]
    for i, text in enumerate(texts):
        encoding = tokenizer(" ".join(text))
        ids += encoding["input_ids"][1:]
        words += [None if word is None else (i, word) for word in encoding.word_ids()[1:]]
    ids, words = ids[:1] + ids[cut:], words[:1] + words[cut:]
    if not set(ids) - specials:
        return
    hidden = hidden_of(tokenizer, ids, ObjectiveConfig("whole_word", rate))
    assert not set(np.asarray(ids)[hidden]) & specials
    if "[UNK]" in tokenizer.convert_ids_to_tokens(ids):
        return  # an unknown character inside a word cannot be asked for
    units = units_of(tokenizer, ids)
    sizes = [len(unit) for unit in units]
    budget = max(round(rate * sum(sizes)), 1)
    reachable = {sum(fit) for fit in [fit_whole(sizes, budget)]}
    assert hidden.sum() in reachable
    if min(sizes) > budget:
        assert hidden.sum() == budget  # even the smallest word is larger: one is cut
        return
    for word in {word for word in words if word is not None}:
        inside = [hidden[i] for i in range(len(ids)) if words[i] == word]
        assert all(inside) or not any(inside)


def units_of(tokenizer, ids: list[int]) -> list[list[int]]:
    """Words by the marks in the tokens' own spelling."""
    units: list[list[int]] = []
    previous = True
    for i, token in enumerate(tokenizer.convert_ids_to_tokens(ids)):
        special = ids[i] in tokenizer.all_special_ids
        marked = token[0] in "Ġ▁" if tokenizer is not FAMILIES["wordpiece"] else not token.startswith("##")
        if not special and (marked or previous):
            units.append([])
        if not special:
            units[-1].append(i)
        previous = special
    return units


@every_family
def test_where_words_begin(tokenizer):
    ids = tokenizer("the quick brown fox", add_special_tokens=False)["input_ids"]
    pieces = np.split(np.asarray(ids), np.flatnonzero(word_starts(tokenizer)[ids])[1:])
    first = 0 if word_starts(tokenizer)[ids][0] else 1
    words = [tokenizer.decode(piece).strip() for piece in pieces]
    assert words[-3 + first :] == ["quick", "brown", "fox"][first:]


def test_a_tokenizer_without_marks_is_refused():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    bare = Tokenizer(models.BPE({"[PAD]": 0, "[MASK]": 1, "[CLS]": 2, "[SEP]": 3, "a": 4, "b": 5}, []))
    bare.pre_tokenizer = pre_tokenizers.Whitespace()
    roles = {f"{role}_token": f"[{role.upper()}]" for role in ("pad", "mask", "cls", "sep")}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bare, **roles)
    with pytest.raises(UserError, match=r"^objective.masking: this tokenizer does not mark where words begin"):
        MaskedLMCollator(tokenizer, ObjectiveConfig("whole_word"), 0)


@settings(max_examples=200)
@given(sizes=st.lists(st.integers(1, 7), min_size=1, max_size=9), budget=st.integers(1, 20))
def test_whole_units_reach_the_budget_or_the_nearest_below(sizes, budget):
    taken = fit_whole(sizes, budget)
    sums = {sum(some) for k in range(len(sizes) + 1) for some in combinations(sizes, k)}
    best = max(total for total in sums if total <= budget)
    assert sum(taken) == (best or budget)
    if best:
        assert all(count in (0, size) for count, size in zip(taken, sizes))


@pytest.mark.parametrize("masking", ["span", "span_geometric"])
@settings(max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    rate=st.sampled_from([0.15, 0.5]),
    seed=st.integers(0, 9),
)
def test_spans_are_contiguous_and_inside_a_text(masking, lengths, rate, seed):
    """Every unit is hidden as a whole, but for one a row that the budget cuts to its beginning."""
    tokenizer = FAMILIES["wordpiece"]
    rows = 3
    text = text_of(lengths, seed, rows)
    member = MASKINGS[masking](tokenizer, ObjectiveConfig())
    begins = member.units(text)
    assert (begins >= text.begins_M).all(), "no span goes on over the end of a text"
    budget = max(round(rate * sum(lengths)), 1)
    hidden = member.choose(text, np.full(rows, budget))
    assert hidden.reshape(rows, -1).sum(1).tolist() == [budget] * rows
    cut = np.zeros(rows, dtype=int)
    for unit in np.split(np.arange(len(begins)), np.flatnonzero(begins)[1:]):
        assert len(unit) <= 10
        inside = hidden[unit]
        assert inside.all() or not inside[int(inside.sum()) :].any()
        cut[text.row_M[unit[0]]] += 0 < inside.sum() < len(unit)
    assert (cut <= 1).all()


@pytest.mark.parametrize(
    ("masking", "expected"),
    [
        ("span", np.r_[0, 0, np.full(8, 1 / 8)]),
        ("span_geometric", 0.2 * 0.8 ** np.arange(10) / (1 - 0.8**10)),
    ],
)
def test_lengths_of_spans(masking, expected):
    """Of the spans that are begun until the budget is spent, whole length; a text's last span is left out."""
    rows, tokens = 40, 4000
    text = text_of([tokens], rows=rows)
    text = replace(text, ids_M=np.full(rows * tokens, FAMILIES["wordpiece"].convert_tokens_to_ids("the")))
    member = MASKINGS[masking](FAMILIES["wordpiece"], ObjectiveConfig())
    begins, hidden = member.units(text), member.choose(text, np.full(rows, 600))
    first = np.flatnonzero(begins)
    sizes = np.diff(first, append=len(begins))
    inner = np.append(text.row_M[first[1:]] == text.row_M[first[:-1]], False)
    counts = np.bincount(sizes[hidden[first] & inner], minlength=11)[1:]
    assert counts[expected == 0].sum() == 0
    kept = expected > 0
    assert chisquare(counts[kept], expected[kept] * counts.sum()).pvalue > 1e-3
    if masking == "span_geometric":
        assert sizes[inner].mean() == pytest.approx(3.8, abs=0.1)  # SpanBERT, section 3.1


def test_a_span_longer_than_the_text():
    ids = packed(FAMILIES["wordpiece"], ["the", "fox", "dog"])
    for place in range(20):
        hidden = hidden_of(FAMILIES["wordpiece"], ids, ObjectiveConfig("span", 0.5), place)
        assert hidden.sum() == max(round(0.5 * sum(i not in FAMILIES["wordpiece"].all_special_ids for i in ids)), 1)


def ngram_file(tokenizer, ngrams: list[str]) -> NgramFile:
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in ngrams]
    numbers = np.ones(len(ids))
    return NgramFile(fingerprint(tokenizer), np.concatenate(ids), np.array([*map(len, ids)]), numbers, numbers)


def units_in_words(tokenizer, file, text: str, path, seed: int = 0) -> list[str]:
    file.save(path)
    member = MASKINGS["pmi"](tokenizer, ObjectiveConfig("pmi", ngrams=path))
    ids = np.asarray(tokenizer(text, add_special_tokens=False)["input_ids"])
    draws = np.random.default_rng(seed).random((2, len(ids)))
    begins = member.units(MaskableText(ids, np.zeros(len(ids), int), np.arange(len(ids)) == 0, draws))
    return [tokenizer.decode(unit).strip() for unit in np.split(ids, np.flatnonzero(begins)[1:])]


def test_collocations_are_units_and_the_longest_wins(tmp_path):
    """Known answers, from the rules of the paper's repository."""
    tokenizer, path = FAMILIES["wordpiece"], tmp_path / "ngrams.npz"
    file = ngram_file(tokenizer, ["quick brown", "brown fox", "the quick brown fox", "lazy dog", "over the lazy"])
    assert units_in_words(tokenizer, file, "the quick brown fox jumps", path) == ["the quick brown fox", "jumps"]
    assert units_in_words(tokenizer, file, "lazy dog over the fox", path) == ["lazy dog", "over", "the", "fox"]
    assert units_in_words(tokenizer, file, "over the lazy dog", path) == ["over the lazy", "dog"]
    either = {tuple(units_in_words(tokenizer, file, "a quick brown fox", path, seed)) for seed in range(20)}
    assert either == {("a", "quick brown", "fox"), ("a", "quick", "brown fox")}


@settings(max_examples=100)
@given(
    words=st.lists(st.integers(0, 2), min_size=1, max_size=15),
    ngrams=st.lists(st.lists(st.integers(0, 2), min_size=2, max_size=5), max_size=6),
    seed=st.integers(0, 99),
)
def test_runs_never_overlap_and_none_is_missed(words, ngrams, seed):
    """Against a naive scan: a free n-gram is left only where a longer one, or one as long, has taken a word of it."""
    order = np.random.default_rng(seed).random(len(words))
    found = {
        n: np.array([words[i : i + n] in ngrams and i + n <= len(words) for i in range(len(words))])
        for n in range(2, 6)
    }
    begins = longest_matches(found, order)
    units = [unit.tolist() for unit in np.split(np.arange(len(words)), np.flatnonzero(begins)[1:])]
    size = {i: len(unit) for unit in units for i in unit}
    assert all(len(unit) == 1 or [words[i] for i in unit] in ngrams for unit in units)
    for n, starts in found.items():
        for i in np.flatnonzero(starts):
            assert any(size[j] >= n for j in range(i, i + n))


@every_family
def test_pmi_keeps_words_and_collocations_whole(tokenizer, tmp_path):
    file = ngram_file(tokenizer, ["quick brown fox" if tokenizer is FAMILIES["wordpiece"] else " quick brown fox"])
    file.save(tmp_path / "ngrams.npz")
    config = ObjectiveConfig("pmi", 0.3, ngrams=tmp_path / "ngrams.npz")
    ids = packed(tokenizer, [LINES[0]] * 3)
    budget = round(0.3 * sum(i not in tokenizer.all_special_ids for i in ids))
    words = tokenizer.convert_ids_to_tokens(ids)
    text = np.array(ids)
    needle = file.ids_T
    starts = [i for i in range(len(ids)) if np.array_equal(text[i : i + len(needle)], needle)]
    assert len(starts) == 3, words
    together = 0
    for place in range(30):
        hidden = hidden_of(tokenizer, ids, config, place)
        assert hidden.sum() == budget
        for i in starts:
            inside = hidden[i : i + len(needle)]
            assert inside.all() or not inside.any()
            together += inside.all()
    assert together > 0


def test_ngrams_of_another_tokenizer_are_refused(tmp_path):
    path = tmp_path / "ngrams.npz"
    ngram_file(FAMILIES["wordpiece"], ["quick brown"]).save(path)
    config = ObjectiveConfig("pmi", ngrams=path)
    MaskedLMCollator(FAMILIES["wordpiece"], config, 0)
    with pytest.raises(UserError, match=r"^objective.ngrams: .* was made with another tokenizer \(\w{16}, this one is"):
        MaskedLMCollator(FAMILIES["unigram"], config, 0)
    path.write_text("no arrays")
    with pytest.raises(UserError, match=r"^objective.ngrams: .* is not a file of n-grams"):
        MaskedLMCollator(FAMILIES["wordpiece"], config, 0)


@every_family
def test_words_get_numbers(tokenizer):
    """Equal words have equal numbers, rows are joined where a [CLS] cuts them, specials become 0."""
    ids = tokenizer("lazy dog over lazy dog")["input_ids"][1:]
    numbers = WordNumbers(tokenizer)
    joined = numbers.add(np.array(ids))
    cut = numbers.add(np.array([tokenizer.cls_token_id, *ids[:3], tokenizer.cls_token_id, *ids[3:]]))
    assert cut.tolist() == joined.tolist()
    assert joined[-1] == 0
    assert joined[1] == joined[4] != joined[3]
    assert len(joined) == 6
    assert "".join(tokenizer.decode(numbers.tokens[number]).strip() for number in joined[1:3]) == "dogover"

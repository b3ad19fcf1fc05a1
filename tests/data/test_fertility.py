import pytest

from concept_encoder.data.fertility import fertility
from concept_encoder.data.tokenizer import load_tokenizer, train_tokenizer
from concept_encoder.errors import UserError


def test_known_counts(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s", "dog"]) + "\n")
    found = fertility(load_tokenizer(path), ["The cats, the", "cat\n"])  # the cat ##s [UNK] the | cat
    assert found.vocabulary == 9
    assert found.embedding_rows == 64
    assert found.tokens_per_word == 6 / 4
    assert found.bytes_per_token == 17 / 6
    assert found.unk_share == 1 / 6
    assert found.used_share == 3 / 4


def test_bytes_know_everything(sentences):
    tokenizer = train_tokenizer(sentences, "bpe", 300)
    found = fertility(tokenizer, ["עברית 👩‍👩‍👧", *sentences])
    assert found.unk_share == 0
    assert found.tokens_per_word == sum(
        len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in ["עברית 👩‍👩‍👧", *sentences]
    ) / sum(len(text.split()) for text in ["עברית 👩‍👩‍👧", *sentences])


def test_nothing_to_measure_on(sentences):
    with pytest.raises(UserError, match="hold no word"):
        fertility(train_tokenizer(sentences, "wordpiece", 100), [" "])

import json
import time

import pytest

from concept_encoder.data.tokenizer import SPECIAL_TOKENS, load_tokenizer, padded_vocab_size, train_tokenizer
from concept_encoder.errors import UserError

KINDS = ("wordpiece", "bpe", "unigram")


@pytest.fixture(scope="module")
def trained(sentences):
    sizes = {"wordpiece": 200, "bpe": 300, "unigram": 80}
    return {kind: train_tokenizer(sentences, kind, sizes[kind]) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_specials_and_pair_template(trained, kind):
    tokenizer = trained[kind]
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS.values())) == [0, 1, 2, 3, 4]
    pair = tokenizer("the cat", "a dog")
    ids = pair["input_ids"]
    assert ids[0] == 2
    assert ids[-1] == 3
    assert ids.count(3) == 2
    first = ids.index(3) + 1
    assert pair["token_type_ids"] == [0] * first + [1] * (len(ids) - first)
    assert tokenizer.mask_token_id == 4


@pytest.mark.parametrize("kind", KINDS)
def test_text_comes_back(trained, kind):
    ids = trained[kind]("the cat sat on a red mat")["input_ids"]
    assert trained[kind].decode(ids, skip_special_tokens=True).strip() == "the cat sat on a red mat"


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_training_is_deterministic(sentences, trained, kind):
    again = train_tokenizer(sentences, kind, len(trained[kind]))
    assert again.get_vocab() == trained[kind].get_vocab()


def test_bpe_keeps_every_byte(trained):
    text = "Ünïcode \0 👩‍👩‍👧 עברית\t two  spaces"
    assert trained["bpe"].decode(trained["bpe"](text, add_special_tokens=False)["input_ids"]) == text


def test_the_vocabulary_is_padded_to_64(trained):
    tokenizer = trained["wordpiece"]
    assert len(tokenizer) <= padded_vocab_size(tokenizer) < len(tokenizer) + 64
    assert padded_vocab_size(tokenizer) % 64 == 0


@pytest.mark.parametrize("kind", KINDS)
def test_save_and_load(tmp_path, trained, kind):
    trained[kind].save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded("the cat", "a zebra") == trained[kind]("the cat", "a zebra")
    (tmp_path / "tokenizer_config.json").unlink()  # a bare tokenizer.json
    assert load_tokenizer(tmp_path).mask_token_id == 4


def test_vocab_file(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s"]) + "\n")
    for source in (path, tmp_path):
        tokenizer = load_tokenizer(source)
        assert tokenizer("The cats, the")["input_ids"] == [2, 5, 6, 7, 1, 5, 3]
    path.write_text("the\ncat\n")
    with pytest.raises(UserError, match="not a WordPiece vocabulary, it lacks"):
        load_tokenizer(path)


def test_a_tokenizer_without_a_mask_is_refused(tmp_path, trained):
    trained["bpe"].save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        path = tmp_path / name
        path.write_text(path.read_text().replace("[MASK]", "<other>"))
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config.pop("mask_token")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="has no mask token"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_damaged_tokenizer(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match="cannot be loaded"):
        load_tokenizer(tmp_path)


def test_nothing_there(tmp_path, monkeypatch):
    def unreachable(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", unreachable)
    monkeypatch.setattr("concept_encoder.data.hub.is_offline_mode", lambda: False)
    for source, problem in (
        (tmp_path, "neither tokenizer.json nor vocab.txt"),
        (tmp_path / "gone", "no such file or folder"),
        ("some-org/some-model", "the hub cannot be reached"),
    ):
        with pytest.raises(UserError, match=problem):
            load_tokenizer(source)


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_no_text_to_train_on(kind):
    with pytest.raises(UserError, match="tokenizer"):
        train_tokenizer([], kind, 100)


@pytest.mark.parametrize("kind", KINDS)
def test_a_word_without_end_does_not_stop_the_training(sentences, kind):
    started = time.perf_counter()
    train_tokenizer([*sentences, "xy" * 200_000, " " * 200_000], kind, 300 if kind == "bpe" else 80)
    assert time.perf_counter() - started < 10  # minutes when the run is one word

"""Train a tokenizer, or load one: always a fast tokenizer with pad, unk, cls, sep and mask tokens."""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from concept_encoder.data.hub import check_hub
from concept_encoder.errors import UserError

TokenizerKind = Literal["wordpiece", "bpe", "unigram"]

SPECIAL_TOKENS = {
    "pad": "[PAD]",
    "unk": "[UNK]",
    "cls": "[CLS]",
    "sep": "[SEP]",
    "mask": "[MASK]",
}  # ids 0 to 4
_SPECIALS = list(SPECIAL_TOKENS.values())
_LONG_RUN = re.compile(r"\S{1000,}|\s{1000,}")
_BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())


def padded_vocab_size(tokenizer: PreTrainedTokenizerFast, multiple: int = 64) -> int:
    """Rows of the embedding: the vocabulary rounded up, as matrix multiplication likes it."""
    return -(-len(tokenizer) // multiple) * multiple


def longest_text(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> int:
    """Tokens of the longest text that both the tokenizer and the model take."""
    limits = (getattr(config, "max_position_embeddings", None), tokenizer.model_max_length)
    return int(min(limit for limit in limits if limit))


def train_tokenizer(texts: Iterable[str], kind: TokenizerKind, vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a tokenizer of at most `vocab_size` entries, specials included.

    `wordpiece` is BERT's (lower case, no accents), `bpe` works on bytes and keeps the text, `unigram` is
    SentencePiece's (NFKC). The same texts give the same `wordpiece` and `bpe`; the scores of a `unigram`
    differ in the third decimal from one training to the next, so keep the trained one.

    Raises `UserError` when there is too little text to train on.
    """
    train = {"wordpiece": _train_wordpiece, "bpe": _train_bpe, "unigram": _train_unigram}[kind]
    texts = [piece for text in texts for piece in _without_long_runs(text)]
    try:
        tokenizer = train(texts, vocab_size)
    except Exception as error:  # the Rust trainers raise a bare Exception
        raise UserError(f"vocab_size: no {kind} tokenizer can be trained on this text ({error})") from None
    if tokenizer.get_vocab_size() <= len(_SPECIALS):
        raise UserError(f"tokenizer: no training text for a {kind} tokenizer; hold out less, or give more")
    return _finish(tokenizer)


def _without_long_runs(text: str) -> Iterator[str]:
    """Cut runs without a space (or of spaces alone) into words of 1,000 characters, and keep the first 20 of them.

    One "word" of megabytes, such as a file in base 64, keeps the trainers busy for hours and teaches them nothing.
    """
    start = 0
    for run in _LONG_RUN.finditer(text):
        yield text[start : run.start()]
        yield from (run.group()[i : i + 1000] for i in range(0, min(len(run.group()), 20_000), 1000))
        start = run.end()
    yield text[start:]


def load_tokenizer(name_or_path: str | Path) -> PreTrainedTokenizerFast:
    """Load a tokenizer: a folder with `tokenizer.json`, a WordPiece `vocab.txt`, or an id of the hub.

    Raises `UserError` when there is none, or it lacks a token that masked language modelling needs.
    """
    path = Path(name_or_path).expanduser()
    folder_vocab = path / "vocab.txt"
    if (path / "tokenizer.json").is_file():
        tokenizer = _load_folder(path)
    elif path.is_file() or folder_vocab.is_file():
        tokenizer = _finish(_wordpiece_from_vocab(folder_vocab if path.is_dir() else path))
    elif path.exists():
        raise UserError(f"{name_or_path}: the folder holds neither tokenizer.json nor vocab.txt")
    elif not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", str(name_or_path)):
        raise UserError(f"{name_or_path}: no such file or folder (a tokenizer of the hub is written org/name)")
    else:
        tokenizer = _load_hub(str(name_or_path))
    missing = [role for role in ("pad", "cls", "sep", "mask") if getattr(tokenizer, f"{role}_token_id") is None]
    if missing:
        problem = f"the tokenizer has no {', '.join(missing)} token"
        raise UserError(f"{name_or_path}: {problem}; use one made for masked language modelling, such as BERT's")
    return tokenizer


def _train_wordpiece(texts: list[str], vocab_size: int) -> Tokenizer:
    tokenizer = _bert_pipeline(models.WordPiece(unk_token="[UNK]"), lowercase=True)
    # The trainer numbers the "##x" pieces in the order of a randomly seeded hash map, and ids break ties of
    # merges. Named as "special tokens" they get fixed ids; the tokenizer is rebuilt without these specials.
    count = Counter()
    for text in texts:
        count.update(tokenizer.normalizer.normalize_str(text))
    common = sorted((char for char in count if not char.isspace()), key=lambda char: (-count[char], char))
    alphabet = sorted(common[: max(26, min(1000, vocab_size // 8))])
    pieces = [f"##{char}" for char in alphabet if not _is_punctuation(char)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=[*_SPECIALS, *pieces],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    vocab = tokenizer.get_vocab()
    return _bert_pipeline(models.WordPiece(vocab, unk_token="[UNK]"), lowercase=True)


def _is_punctuation(char: str) -> bool:
    """As BertPreTokenizer sees it: a word of its own, so it never continues one."""
    return char in string.punctuation or unicodedata.category(char).startswith("P")


def _train_bpe(texts: list[str], vocab_size: int) -> Tokenizer:
    if vocab_size < len(_SPECIALS) + len(_BYTES):
        raise ValueError(f"bpe needs at least {len(_SPECIALS) + len(_BYTES)} entries: all bytes and the specials")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=_SPECIALS, initial_alphabet=_BYTES, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _train_unigram(texts: list[str], vocab_size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size, special_tokens=_SPECIALS, unk_token="[UNK]", show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _bert_pipeline(model: models.WordPiece, lowercase: bool) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def _wordpiece_from_vocab(path: Path) -> Tokenizer:
    try:
        tokens = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text; a WordPiece vocabulary has one token a line") from None
    vocab = {token: i for i, token in enumerate(tokens)}
    if missing := [token for token in _SPECIALS if token not in vocab]:
        raise UserError(f"{path}: not a WordPiece vocabulary, it lacks {', '.join(missing)}")
    lowercase = not any(token != token.lower() for token in tokens if not token.startswith("["))
    return _bert_pipeline(models.WordPiece(vocab, unk_token="[UNK]"), lowercase)


def _finish(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """BERT's template for one text and for a pair, and the names of the specials."""
    cls, sep = SPECIAL_TOKENS["cls"], SPECIAL_TOKENS["sep"]
    tokenizer.add_special_tokens(_SPECIALS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (cls, sep)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **{f"{role}_token": token for role, token in SPECIAL_TOKENS.items()},
    )


def _load_folder(folder: Path) -> PreTrainedTokenizerFast:
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the Rust parser raises a bare Exception
        raise UserError(f"{folder}: its tokenizer cannot be loaded ({str(error).partition(chr(10))[0]})") from None
    for role, token in SPECIAL_TOKENS.items():  # a bare tokenizer.json does not name its specials
        if getattr(tokenizer, f"{role}_token") is None and token in tokenizer.get_vocab():
            setattr(tokenizer, f"{role}_token", token)
    return tokenizer


def _load_hub(name: str) -> PreTrainedTokenizerFast:
    remedy = "give a folder with tokenizer.json, or a vocab.txt, or set HF_ENDPOINT=URL of a mirror"
    try:  # what an earlier run has downloaded needs no network
        return AutoTokenizer.from_pretrained(name, local_files_only=True)
    except (OSError, ValueError):
        check_hub(name, "model", remedy)
    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{name}: its tokenizer cannot be loaded ({reason}); {remedy}") from None

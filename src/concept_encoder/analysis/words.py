"""Words and tags beside the tokens of a model: which token belongs to which word, and tags from spaCy."""

from collections.abc import Iterable, Sequence

from concept_encoder.data.conllu import Span, TaggedSentence
from concept_encoder.errors import UserError


def words_of_tokens(offsets: Sequence[Span], spans: Sequence[Span]) -> list[int | None]:
    """For each token the word that it shares most letters with; None for a token that shares none ([CLS])."""
    owners: list[int | None] = []
    for start, end in offsets:
        shared = [min(end, stop) - max(start, begin) for begin, stop in spans]
        best = max(range(len(spans)), key=shared.__getitem__, default=None)
        owners.append(best if best is not None and shared[best] > 0 else None)
    return owners


def tag_texts(texts: Iterable[str], pipeline: str) -> list[TaggedSentence]:
    """Sentences as they are written, tagged by a spaCy pipeline such as `en_core_web_sm`: a model's tags, not gold.

    Raises:
        UserError: spaCy or the pipeline is not installed, or the pipeline marks no sentences or no word classes.
    """
    try:
        import spacy

        tagger = spacy.load(pipeline)
    except ImportError:
        raise UserError('tags: spaCy is not installed; pip install "concept-encoder[spacy]"') from None
    except OSError:
        raise UserError(f"tags: no spaCy pipeline {pipeline!r}; python -m spacy download {pipeline}") from None
    found, classes = [], False
    for document in tagger.pipe(texts):
        if len(document) and not document.has_annotation("SENT_START"):
            raise UserError(f"tags: the spaCy pipeline {pipeline!r} marks no sentences; use one that does")
        classes = classes or document.has_annotation("POS")
        for sentence in document.sents:
            words = [word for word in sentence if not word.is_space]
            if words:
                starts = [word.idx - sentence.start_char for word in words]
                spans = [(start, start + len(word.text)) for start, word in zip(starts, words)]
                tags = [word.pos_ or "X" for word in words]  # X: the class of words that are in no other (UPOS)
                found.append(TaggedSentence(sentence.text, spans, tags, sentence.text[:40]))
    if not classes:
        raise UserError(f"tags: the spaCy pipeline {pipeline!r} marks no word classes; use one that does")
    return found

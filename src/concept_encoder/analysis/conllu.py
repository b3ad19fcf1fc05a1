"""Words and tags beside the tokens of a model: which token belongs to which word, and tags from spaCy."""

from collections.abc import Iterable, Sequence

from concept_encoder.data.conllu import Span, TaggedSentence, tagged
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
    """Sentences tagged by a spaCy pipeline such as `en_core_web_sm` (silver, not gold).

    Raises:
        UserError: spaCy or the pipeline is not installed.
    """
    try:
        import spacy

        tagger = spacy.load(pipeline)
    except ImportError:
        raise UserError('tags: spaCy is not installed; pip install "concept-encoder[spacy]"') from None
    except OSError:
        raise UserError(f"tags: no spaCy pipeline {pipeline!r}; python -m spacy download {pipeline}") from None
    found = []
    for document in tagger.pipe(texts):
        for sentence in document.sents:
            words = [word for word in sentence if not word.is_space]
            if words:
                found.append(tagged([word.text for word in words], [word.pos_ for word in words], sentence.text[:40]))
    return found

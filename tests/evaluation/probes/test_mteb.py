"""A task of `mteb` on data that is made here: nothing is asked of the hub."""

import pytest
import torch
from cases import SMALL
from datasets import Dataset, DatasetDict

from concept_encoder.data.tokenizer import train_tokenizer
from concept_encoder.errors import UserError
from concept_encoder.model import ConceptEncoderForMaskedLM, preset_config

mteb = pytest.importorskip("mteb")

TEXTS = ["a cat sat on the mat", "dogs bark at cats", "a mat for dogs", "cats"]


def tiny_task():
    from mteb.abstasks.sts import AbsTaskSTS
    from mteb.abstasks.task_metadata import TaskMetadata

    unsaid = ("reference", "date", "domains", "task_subtypes", "license", "annotations_creators", "dialect",
              "sample_creation", "bibtex_citation")  # fmt: skip

    class Tiny(AbsTaskSTS):
        metadata = TaskMetadata(
            name="TinySTS", dataset={"path": "nobody/tiny", "revision": "1"}, description="made here", type="STS",
            category="t2t", modalities=["text"], eval_splits=["test"], eval_langs=["eng-Latn"],
            main_score="cosine_spearman", **dict.fromkeys(unsaid),
        )  # fmt: skip
        min_score, max_score = 0, 5

        def load_data(self, *args, **kwargs):
            rows = {"sentence1": TEXTS, "sentence2": [TEXTS[0], *TEXTS[2:], TEXTS[1]], "score": [5.0, 2.0, 1.0, 3.0]}
            self.dataset, self.data_loaded = DatasetDict({"test": Dataset.from_dict(rows)}), True

    return Tiny()


@pytest.mark.parametrize("preset", ["woven", "bert"])
def test_a_checkpoint_beside_random_vectors(tmp_path, preset):
    from concept_encoder.evaluation.probes.mteb_tasks import embedding_model, score_mteb

    torch.manual_seed(0)
    ConceptEncoderForMaskedLM(preset_config(preset, 2, **SMALL)).save_pretrained(tmp_path)
    train_tokenizer(TEXTS * 5, "wordpiece", 100).save_pretrained(tmp_path)
    found = score_mteb(embedding_model(tmp_path), [tiny_task()])["TinySTS"]
    assert found["metric"] == "cosine_spearman"
    assert -1 <= found["random"] <= 1
    assert found["main_score"] > 0, "equal texts are most alike"


def test_unknown_tasks_are_answered_with_near_ones():
    from concept_encoder.evaluation.probes.mteb_tasks import tasks_named

    with pytest.raises(UserError, match="mteb: no task 'STS1234'; did you mean"):
        tasks_named(["STS1234"])

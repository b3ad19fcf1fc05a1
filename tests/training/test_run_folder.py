"""What may differ where a run goes on, and what makes it another one."""

import shutil

import pytest

from concept_encoder.errors import UserError
from concept_encoder.training.run_folder import RunFolder


def begun(path, start="a-1234", **data):
    """The run `b` in a store, fine-tuned from another."""
    model, training = {"checkpoint": str(path / "runs" / start)}, {"output_dir": str(path / "runs/b"), "seed": 0}
    run = RunFolder(path / "runs/b", {"model": model, "data": data, "training": training}, 0)
    run.begin()
    return run


def test_a_run_that_was_moved_with_the_one_it_starts_from_goes_on(tmp_path):
    begun(tmp_path / "old")
    shutil.move(tmp_path / "old", tmp_path / "new")
    begun(tmp_path / "new")
    with pytest.raises(UserError, match=r"holds another run \(its model.checkpoint is .*a-1234', not .*c-5678'"):
        begun(tmp_path / "new", "c-5678")


def test_what_else_a_run_is_scored_on_may_change_until_it_was_scored(tmp_path):
    begun(tmp_path, also=None)
    run = begun(tmp_path, also=["mnli-mm"])
    run.write_json("result.json", {})
    with pytest.raises(UserError, match=r"its data.also is \['mnli-mm'\], not \['hans'\]"):
        begun(tmp_path, also=["hans"])

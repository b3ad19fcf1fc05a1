"""`--on ENGINE[:FILE]`: one table of engines, and a store that knows where its runs are."""

import pytest

from concept_encoder.errors import UserError
from concept_encoder.lab.engines.engine import Room
from concept_encoder.lab.engines.table import ENGINES, engine_name, open_engine
from concept_encoder.lab.store import State, Store


def test_a_wrong_name_is_answered_with_the_valid_ones(tmp_path):
    with pytest.raises(UserError, match=r"--on lokal: no such engine; did you mean 'local'\? valid: .*local"):
        open_engine("lokal")
    with pytest.raises(UserError, match=r"--on local:nothing.yaml: no file nothing.yaml"):
        open_engine("local:nothing.yaml")
    (tmp_path / "some.yaml").write_text("")
    with pytest.raises(UserError, match="the local engine has no settings; use --slots and --gpus"):
        open_engine(f"local:{tmp_path}/some.yaml")


def test_every_name_is_its_own_full_form():
    assert [engine_name(name) for name in ENGINES] == list(ENGINES)


def test_the_local_engine_says_what_it_has():
    assert open_engine("local", slots=3, gpus=2).room == Room(3, {"this machine": 2})


@pytest.mark.parametrize(
    ("visible", "gpus", "used"),
    [
        ("4,5,6", None, ["4", "5", "6"]),
        ("4,5,6", 2, ["4", "5"]),
        ("4,5,6", 0, []),
        ("GPU-8932f937, MIG-GPU-8932f937/1/2", 1, ["GPU-8932f937"]),
        ("GPU-8932f937, MIG-GPU-8932f937/1/2", None, ["GPU-8932f937", "MIG-GPU-8932f937/1/2"]),
        ("2,-1,3", None, ["2"]),
        ("", 2, ["0", "1"]),
        ("NoDevFiles", None, []),
    ],
)
def test_gpus_are_the_first_of_those_that_are_visible(monkeypatch, visible, gpus, used):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert open_engine("local", slots=1, gpus=gpus).gpus == used


def test_a_store_gives_its_runs_to_one_engine_at_a_time(tmp_path):
    store = Store(tmp_path)
    assert store.engine == "local"
    store.set_plan([State("1", "a.s0", "a", folder="runs/a")])
    (run,) = store.states()
    store.set_engine("slurm")
    store.move(run, "running", attempt=1)
    with pytest.raises(UserError, match="1 runs go on at 'slurm'; let them end there"):
        store.set_engine("local")
    store.set_engine("slurm")
    store.move(run, "done")
    store.set_engine("local")
    assert Store(tmp_path, create=False).engine == "local"

"""Training with a concept loss: what it records, what it leaves alone, exact resumption, and the guard."""

import copy
import json
import logging
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from concept_encoder.errors import UserError
from concept_encoder.model import PRESETS, ConceptEncoderForMaskedLM, preset_config
from concept_encoder.model.loading import list_checkpoints
from concept_encoder.objectives.concept_losses import CONCEPT_LOSSES
from concept_encoder.objectives.masked_lm import ObjectiveConfig
from concept_encoder.objectives.weighting import WEIGHTINGS
from concept_encoder.records import read_metrics
from concept_encoder.training import concept_objective
from concept_encoder.training.concept_objective import FILE, ConceptObjective
from concept_encoder.training.pretrain import PretrainRecipe, pretrain
from concept_encoder.training.recipe import load_rows, load_sections
from concept_encoder.training.trainer import ConceptTrainer

RECIPE = Path(__file__).parents[2] / "recipes" / "concept-losses.yaml"
RECORD = {"task_loss", "concept_loss", "task_weight", "concept_weight", "task_grad_share"}


@pytest.fixture
def sections(sections: dict) -> dict:
    before = torch.get_num_threads()
    sections["training"]["threads"] = 1
    yield sections
    torch.set_num_threads(before)


def train(sections: dict, folder: Path, objective: dict | None = None, **training: object) -> Path:
    sections = copy.deepcopy(sections)
    sections["training"].update(output_dir=str(folder), **training)
    sections["objective"].update(objective or {})
    pretrain(PretrainRecipe.from_sections(sections))
    return folder


def records(run: Path) -> list[dict]:
    timeless = [{name: m[name] for name in m if name not in ("time", "tokens_per_second")} for m in read_metrics(run)]
    return [record for record in timeless if "task_loss" in record]


def assert_same_state(one: Path, two: Path) -> None:
    for file in ("model.safetensors", FILE):
        first, second = (load_file(list_checkpoints(run)[-1] / file) for run in (one, two))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)


def small_model(preset: str = "anchored", num_layers: int = 3, **fields: int) -> ConceptEncoderForMaskedLM:
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 16, "num_attention_heads": 2, "max_position_embeddings": 24}
    return ConceptEncoderForMaskedLM(
        preset_config(preset, num_layers, local_window=8, mask_token_id=4, **sizes, **fields)
    )


def batch(padded: bool = True) -> dict[str, torch.Tensor]:
    ids = torch.randint(5, 64, (4, 24), generator=torch.Generator().manual_seed(1))
    inputs = {"input_ids": ids, "labels": ids[:, :5], "label_index": torch.arange(5).expand(4, 5)}
    if padded:
        inputs["attention_mask"] = (torch.arange(24) < torch.tensor([24, 9, 16, 5])[:, None]).long()
    return inputs


def test_every_step_is_recorded(sections, tmp_path):
    run = train(sections, tmp_path / "run", {"concept_loss": "combined"}, log_every=4, eval_every=3)
    found = records(run)
    assert [record["step"] for record in found] == [1, 2, 3, 4, 5, 6]
    for record in found:
        assert record.keys() >= RECORD
        assert 0 < record["task_grad_share"] < 1
        assert (record["task_weight"], record["concept_weight"]) == pytest.approx((1, 0.1))
    logged = found[3]
    assert {"loss", "grad_norm", "learning_rate"} <= logged.keys()
    totals = [record["task_loss"] + 0.1 * record["concept_loss"] for record in found]
    assert logged["loss"] == pytest.approx(sum(totals[:4]) / 4, rel=1e-5)
    assert found[-1]["concept_loss"] < found[0]["concept_loss"]
    assert [m["step"] for m in read_metrics(run) if "eval_loss" in m] == [3, 6]


def test_an_idle_constraint_changes_nothing_and_evaluation_is_the_task_alone(sections, tmp_path):
    """With the target met at every step, weights and held-out loss are those of a run without a concept loss."""
    plain = train(sections, tmp_path / "plain")
    idle = {"concept_loss": "vicreg", "loss_weighting": "constraint", "rank_target": 1e-6}
    watched = train(sections, tmp_path / "watched", idle)
    first, second = (load_file(list_checkpoints(run)[-1] / "model.safetensors") for run in (plain, watched))
    assert all(torch.equal(first[name], second[name]) for name in first)
    results = [json.loads((run / "result.json").read_text())["eval_loss"] for run in (plain, watched)]
    assert results[0] == results[1]
    assert all(r["concept_weight"] == 0 and r["task_grad_share"] == 1 and r["rank_share"] > 0 for r in records(watched))
    assert not (list_checkpoints(plain)[-1] / FILE).exists()


WITH_CONCEPTS = [name for name, preset in PRESETS.items() if preset.options["concept_source"] != "none"]


@pytest.mark.parametrize("preset", WITH_CONCEPTS)
def test_the_share_is_that_of_the_two_gradients(preset):
    """One backward pass gives what differentiating each loss by itself gives, whoever hears the last concepts."""
    learned = PRESETS[preset].options["concept_source"] == "learned"
    model, inputs = small_model(preset, 6, **({"num_concepts": 6} if learned else {})), batch()
    objective = ConceptObjective(ObjectiveConfig(concept_loss="combined", concept_loss_weight=0.3))
    objective.attach(model)
    task = model(**inputs).loss
    z_BCD = objective._z_BCD
    concept = CONCEPT_LOSSES["combined"]()(z_BCD, objective._mask_BC)
    task_norm, concept_norm = (
        torch.autograd.grad(part, z_BCD, retain_graph=True)[0].norm().item() for part in (task, 0.3 * concept)
    )
    objective.total(task, 1).backward()
    objective.after_backward()
    record = objective.finish_step()
    assert task_norm > 0
    assert record["task_grad_share"] == pytest.approx(task_norm / (task_norm + concept_norm), rel=1e-3)
    assert record["task_loss"] == pytest.approx(task.item())
    assert record["concept_loss"] == pytest.approx(concept.item())


def test_the_task_does_not_feel_the_measure():
    """Gradients are those of the plain sum of the two losses."""
    gradients = []
    for measure in (True, False):
        model = small_model()
        objective = ConceptObjective(ObjectiveConfig(concept_loss="vicreg"), measure)
        objective.attach(model)
        objective.total(model(**batch()).loss, 1).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(one, two) for one, two in zip(*gradients))


def test_a_compiled_model_trains_the_same_without_the_measure():
    model, inputs, gradients = small_model(), batch(padded=False), []
    objective = ConceptObjective(ObjectiveConfig(concept_loss="vicreg", task_share_floor=0), measure=False)
    objective.attach(model)
    torch._dynamo.reset()
    for forward in (model, torch.compile(model, backend="eager", fullgraph=True)):
        model.zero_grad()
        objective.total(forward(**inputs).loss, 1).backward()
        objective.after_backward()
        assert "task_grad_share" not in objective.finish_step()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for plain, compiled in zip(*gradients):
        torch.testing.assert_close(plain, compiled)


@pytest.mark.parametrize("weighting", ["gradnorm", "constraint"])
def test_accumulation_changes_nothing(sections, tmp_path, weighting):
    """Exact for losses over pairs; those over dimensions have the statistics of the micro-batch."""
    objective = {"concept_loss": "orthogonality", "loss_weighting": weighting, "rank_target": 1.0}
    whole = train(sections, tmp_path / "whole", objective)
    parts = train(sections, tmp_path / "parts", objective, micro_batch_size=2)
    for one, two in zip(records(whole), records(parts), strict=True):
        assert one == pytest.approx(two, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("weighting", ["kendall_gal", "kendall_gal_original", "gradnorm", "constraint"])
def test_resuming_is_exact(sections, tmp_path, monkeypatch, weighting):
    sections["model"]["hidden_dropout_prob"] = 0.1
    objective = {"concept_loss": "combined", "loss_weighting": weighting, "rank_target": 1.0}
    whole = train(sections, tmp_path / "whole", objective, save_every=3)
    original = ConceptTrainer._save_checkpoint

    def save_then_die(self, *args, **kwargs):
        original(self, *args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(ConceptTrainer, "_save_checkpoint", save_then_die)
    with pytest.raises(KeyboardInterrupt):
        train(sections, tmp_path / "halves", objective, save_every=3)
    monkeypatch.undo()
    assert [p.name for p in list_checkpoints(tmp_path / "halves")] == ["checkpoint-3"]
    halves = train(sections, tmp_path / "halves", objective, save_every=3)
    assert_same_state(whole, halves)
    assert records(whole) == records(halves)
    assert len({record["concept_weight"] for record in records(whole)}) > 3  # there was something to resume


def test_a_full_disk_leaves_no_half_state(sections, tmp_path, monkeypatch):
    def full_disk(self, folder):
        (folder / FILE).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ConceptObjective, "save", full_disk)
    with pytest.raises(UserError, match=r"training.output_dir: no space left .* while saving checkpoint-6"):
        train(sections, tmp_path / "run", {"concept_loss": "vicreg"})
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


@pytest.mark.parametrize("damage", [lambda file: file.unlink(), lambda file: file.write_bytes(b"half")])
def test_a_damaged_state_is_named(tmp_path, damage):
    objective = ConceptObjective(ObjectiveConfig(concept_loss="vicreg"))
    objective.save(tmp_path)
    objective.load(tmp_path)
    damage(tmp_path / FILE)
    with pytest.raises(UserError, match=f"{FILE}: not readable .*delete this checkpoint to go on"):
        objective.load(tmp_path)


@pytest.mark.parametrize("name", ["vicreg", "t_regs"])
def test_losses_train_in_bf16(sections, tmp_path, name):
    run = train(sections, tmp_path / "run", {"concept_loss": name}, precision="bf16", max_steps=2)
    assert all(torch.tensor([*record.values()]).isfinite().all() for record in records(run))


def shares(objective: ConceptObjective, windows: list[float]) -> list[int]:
    """The steps at which the guard speaks when the task holds these shares, each for a whole window."""
    spoken = []
    for step in range(1, concept_objective.WINDOW * len(windows) + 1):
        share = windows[(step - 1) // concept_objective.WINDOW]
        objective._loss_2, objective._square_2 = torch.ones(2), torch.tensor([share**2, (1 - share) ** 2])
        objective.finish_step()
        if objective.low_share(step):
            spoken.append(step)
    return spoken


@pytest.mark.parametrize(
    ("windows", "spoken"),
    [
        ([0.13, 0.29, 0.38, 0.32, 0.24, 0.18], [400]),  # combined, kendall_gal_original: loss 0.36 above none
        ([0.087, 0.089, 0.087, 0.077, 0.049, 0.033], [300]),  # vicreg, kendall_gal_original: 0.45 above
        ([0.23, 0.69, 0.82, 0.87, 0.89, 0.90], []),  # uniformity, fixed 0.1: no harm
        ([0.11, 0.13, 0.18, 0.37, 0.49, 0.57], []),  # t_regs in woven, fixed 0.1: no harm
        ([0.97, 0.96, 0.95, 0.95], []),  # falls, but far above the floor
        ([0.90, 0.90, 0.10, 0.09], [300]),
    ],
)
def test_a_share_that_is_low_and_does_not_rise_is_spoken_of_once(windows, spoken):
    """The first four are means of 100 steps as they were measured, see LOG.md."""
    assert shares(ConceptObjective(ObjectiveConfig(concept_loss="vicreg")), windows) == spoken


def test_the_guard_goes_on_where_it_was(tmp_path):
    windows = [0.13, 0.29, 0.38, 0.32]
    first, second = (ConceptObjective(ObjectiveConfig(concept_loss="vicreg")) for _ in range(2))
    assert shares(first, windows[:3]) == []
    first.save(tmp_path)
    second.load(tmp_path)
    assert shares(second, windows[3:]) == [100]


HEAVY = {"concept_loss": "vicreg", "concept_loss_weight": 1000.0, "task_share_floor": 0.9}


def test_a_low_share_warns_once(sections, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(concept_objective, "WINDOW", 1)
    with caplog.at_level(logging.WARNING):
        run = train(sections, tmp_path / "run", HEAVY, max_steps=12)
    lines = [record.message for record in caplog.records if "task_share_floor" in record.message]
    found = [record["task_grad_share"] for record in records(run)]
    first = next(i for i in range(1, 12) if found[i] <= found[i - 1]) + 1
    assert len(lines) == 1
    assert f"at step {first} the masked-LM loss holds" in lines[0]
    assert "lower objective.concept_loss_weight" in lines[0]


def test_a_low_share_stops_when_told_to(sections, tmp_path, monkeypatch):
    monkeypatch.setattr(concept_objective, "WINDOW", 1)
    objective = {**HEAVY, "on_low_task_share": "stop"}
    with pytest.raises(UserError, match=r"objective\.task_share_floor: at step \d+ the masked-LM loss holds"):
        train(sections, tmp_path / "run", objective, max_steps=12)
    assert 2 <= len(records(tmp_path / "run")) < 12
    train(sections, tmp_path / "free", {**objective, "task_share_floor": 0})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["objective.concept_loss=vicreg", "model.preset=bert"],
            "objective.concept_loss: 'vicreg' needs concepts, but model.concept_source is 'none'",
        ),
        (["objective.concept_loss=vicrg"], "objective.concept_loss: no concept loss is called 'vicrg'"),
        (
            ["objective.concept_loss=vicreg", "training.torch_compile=true"],
            "objective.task_share_floor: gradients inside a compiled model cannot be compared",
        ),
        (
            [
                "objective.concept_loss=vicreg",
                "objective.loss_weighting=gradnorm",
                "objective.task_share_floor=0",
                "training.torch_compile=true",
            ],
            "objective.loss_weighting: gradients inside a compiled model cannot be compared",
        ),
    ],
)
def test_a_wrong_recipe_is_refused_before_any_work(sections, tmp_path, overrides, message):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(sections))
    with pytest.raises(UserError, match=f"^{message}") as caught:
        PretrainRecipe.from_sections(load_sections(recipe, overrides))
    assert "\n" not in str(caught.value)


def test_the_grid_of_the_plan_is_checked():
    recipes = {name: PretrainRecipe.from_sections(row) for name, row in load_rows(RECIPE).items()}
    losses = {name: recipe.objective.concept_loss for name, recipe in recipes.items()}
    plan = {"none": None, "orthogonality": "orthogonality", "vicreg": "vicreg", "combined": "combined"}
    assert plan.items() <= losses.items()
    assert {recipes[name].objective.loss_weighting for name in plan if plan[name]} == {"kendall_gal_original"}
    assert {recipe.objective.loss_weighting for recipe in recipes.values()} >= set(WEIGHTINGS) - {"gradnorm"}


@pytest.mark.slow
def test_learned_weights_spoil_the_task_and_the_guard_sees_it(sections, tmp_path, caplog):
    """A minute of training: unguarded, the held-out loss ends well above a run without a concept loss, and the guard
    warns; it says nothing of the weightings that do no harm."""
    sections["model"] |= {"preset": "anchored", "num_layers": 4}
    sections["data"]["packing"] = "full"
    training = {"max_steps": 600, "batch_size": 16, "learning_rate": 0.003, "log_every": 50}
    objectives = {
        "none": {},
        "original": {"concept_loss": "combined", "loss_weighting": "kendall_gal_original"},
        "guarded": {"concept_loss": "combined", "loss_weighting": "kendall_gal"},
        "constraint": {"concept_loss": "combined", "loss_weighting": "constraint"},
        "uniformity": {"concept_loss": "uniformity"},  # leads in the first steps
    }
    loss, last, warned = {}, {}, {}
    for name, objective in objectives.items():
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            run = train(sections, tmp_path / name, objective, **training)
        loss[name] = json.loads((run / "result.json").read_text())["eval_loss"]
        warned[name] = any("task_share_floor" in record.message for record in caplog.records)
        last[name] = (records(run) or [None])[-1]
    assert loss["original"] > loss["none"] + 0.15
    assert last["original"]["concept_weight"] > 50 * last["original"]["task_weight"]
    assert warned == {name: name == "original" for name in objectives}
    for name in ("guarded", "constraint", "uniformity"):
        assert loss[name] < loss["none"] + 0.05
        assert last[name]["task_grad_share"] > 0.8

"""AdamW, and Muon for the matrices with AdamW for the rest."""

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.optim import AdamW, Muon, Optimizer

if TYPE_CHECKING:
    from concept_encoder.training.settings import TrainingConfig


def parameter_groups(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Parameters by how they are stepped: `matrices` of layers, `tables` and heads, and `vectors` (norms, biases)."""
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    heads = {id(parameter) for name in ("classifier", "pool") for parameter in _part(model, name).parameters()}
    output = model.get_output_embeddings()
    tables |= heads | ({id(output.weight)} if output is not None else set())
    groups: dict[str, list[nn.Parameter]] = {"matrices": [], "tables": [], "vectors": []}
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        if parameter.ndim < 2:
            groups["vectors"].append(parameter)
        elif id(parameter) in tables or parameter.ndim != 2:
            groups["tables"].append(parameter)
        else:
            groups["matrices"].append(parameter)
    return groups


def _part(model: nn.Module, name: str) -> nn.Module:
    return dict(model.named_children()).get(name, nn.Module())


def make_optimizer(model: nn.Module, config: "TrainingConfig") -> Optimizer:
    """The optimiser of a recipe. Weight decay falls on matrices and tables, never on norms and biases."""
    groups = parameter_groups(model)
    betas = (0.9, config.adam_beta2)
    fused = all(parameter.device.type in ("cuda", "cpu") for parameter in model.parameters())
    if config.optimizer == "adamw":
        decayed = {"params": groups["matrices"] + groups["tables"], "weight_decay": config.weight_decay}
        return AdamW(
            [decayed, {"params": groups["vectors"], "weight_decay": 0.0}],
            lr=config.learning_rate,
            betas=betas,
            fused=fused,
        )
    muon = Muon(
        groups["matrices"], lr=config.learning_rate, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    adamw = AdamW(
        [
            {"params": groups["tables"], "weight_decay": config.weight_decay},
            {"params": groups["vectors"], "weight_decay": 0.0},
        ],
        lr=config.adamw_learning_rate,
        betas=betas,
        fused=fused,
    )
    return JointOptimizer([muon, adamw])


def parts(optimizer: Optimizer) -> list[Optimizer]:
    """The optimisers that it is made of."""
    return optimizer.optimizers if isinstance(optimizer, JointOptimizer) else [optimizer]


class JointOptimizer(Optimizer):
    """Several optimisers that step together and look like one to a learning-rate schedule and to a checkpoint."""

    def __init__(self, optimizers: list[Optimizer]):
        self.optimizers = optimizers
        # The very same dictionaries: a schedule that writes the rate here writes it into the parts.
        super().__init__([group for optimizer in optimizers for group in optimizer.param_groups], defaults={})

    @torch.no_grad()
    def step(self, closure: object = None) -> None:
        assert closure is None, "closures are not supported"
        for optimizer in self.optimizers:
            optimizer.step()

    def state_dict(self) -> dict:
        return {"optimizers": [optimizer.state_dict() for optimizer in self.optimizers]}

    def load_state_dict(self, state_dict: dict) -> None:
        for optimizer, state in zip(self.optimizers, state_dict["optimizers"]):
            optimizer.load_state_dict(state)
        self.param_groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]

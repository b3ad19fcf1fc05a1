"""Weights, gradients and optimiser states shared out over the GPUs (FSDP2), with checkpoints like any other run's.

The launcher decides (`accelerate launch --use_fsdp`, or `ACCELERATE_USE_FSDP=true` before torchrun), the recipe does
not change. A move is the unit: its weights are gathered when it runs and dropped again. Source: Zhao et al. 2023
(arXiv:2304.11277), through `torch.distributed.fsdp.fully_shard`.
"""

import os
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only
from transformers import TrainingArguments

from concept_encoder.errors import UserError
from concept_encoder.training.optimizers import parts

WEIGHTS, OPTIMIZER = "model.safetensors", "optimizer.pt"


def is_asked() -> bool:
    """Whether the launcher wants the model sharded."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in ("1", "true")


def check_devices() -> None:
    """Raises `UserError` where sharding is asked for and cannot be had."""
    if is_asked() and not (torch.cuda.is_available() and int(os.environ.get("WORLD_SIZE", "1")) > 1):
        raise UserError("ACCELERATE_USE_FSDP: shards a model over several GPUs; start without it here (no --use_fsdp)")


def sharding_options() -> dict[str, Any]:
    """What `TrainingArguments` must hear. FSDP2 and whole checkpoints, whatever the launcher's defaults are."""
    if not is_asked():
        return {}
    config = {"version": 2, "auto_wrap_policy": "TRANSFORMER_BASED_WRAP", "state_dict_type": "FULL_STATE_DICT"}
    return {"fsdp": True, "fsdp_config": config}


def adjust(arguments: TrainingArguments) -> None:
    """What these options cannot say.

    Precision is left to autocast, as without sharding: accelerate's policy casts what flows between moves too, and a
    position of 257 is 256 in bf16. And torch warns of views: what a move does not touch leaves it as a view, but
    nothing in `model/` writes in place.
    """
    arguments.fsdp_plugin_args["mixed_precision_policy"] = MixedPrecisionPolicy()
    warnings.filterwarnings("ignore", "FSDP2-wrapped module")


def load_weights(model: nn.Module, folder: Path) -> None:
    """Give every process its part of a checkpoint's weights."""
    options = StateDictOptions(full_state_dict=True, strict=False)  # tied weights are saved once
    set_model_state_dict(model, load_file(folder / WEIGHTS), options=options)


def save_optimizer(optimizer: Optimizer, folder: Path, write: bool) -> None:
    """Write the whole state in the form that an unsharded run writes. All processes call it, one writes."""
    whole = tree_map_only(DTensor, lambda part: part.full_tensor().cpu(), optimizer.state_dict())
    if write:
        torch.save(whole, folder / OPTIMIZER)


def load_optimizer(optimizer: Optimizer, folder: Path) -> None:
    """Give every process its part of the state that a run wrote, sharded or not."""
    optimizer.load_state_dict(torch.load(folder / OPTIMIZER, map_location="cpu", weights_only=True))
    for part in parts(optimizer):
        for parameter, states in part.state.items():
            part.state[parameter] = {name: _part_like(value, parameter) for name, value in states.items()}


def _part_like(value: Any, parameter: Tensor) -> Any:
    """What a parameter's place holds of a state of its shape; other states (the step) are the same everywhere."""
    if not isinstance(parameter, DTensor) or not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)

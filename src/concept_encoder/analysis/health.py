"""Is the checkpoint sound? A list of checks, each with a verdict and the evidence, and an exit code for scripts.

`fail` means that numbers of this checkpoint cannot be trusted; `warn` that somebody should look. The thresholds are
stated in the evidence.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from concept_encoder.analysis.capture import Capture
from concept_encoder.analysis.overlap import dead_concepts
from concept_encoder.analysis.rank import NEARLY_ONE_VECTOR, TEXTS_FOR_CONTENT, common_share
from concept_encoder.analysis.subject import Batch, Subject, batches

Verdict = Literal["ok", "warn", "fail"]

LARGE_WEIGHT, HUGE_WEIGHT = 20.0, 1e3  # initialised at 0.02, trained ones rarely pass 5
LARGE_STATE, HUGE_STATE = 1e3, 6e4  # float16 ends at 65,504
DEAD_SPREAD = 0.01  # a unit is dead when its spread is below this share of its layer's median
SINK = 0.5


@dataclass
class Check:
    """One question, its verdict, and what was seen."""

    name: str
    verdict: Verdict
    evidence: str


def check_health(subject: Subject, captured: Capture) -> list[Check]:
    """All checks, the weights first; a check that does not apply is left out."""
    batch = next(iter(batches(subject, captured.tokenized, batch_size=8)))
    checks = [check_weights(subject.model), check_missing(subject), check_tied(subject.model)]
    checks += check_activations(subject, batch)
    checks.append(check_states(captured.z_TCD, captured.mask_TC))
    if checks[-1].verdict != "fail":
        checks.append(check_dimensions(captured.z_TCD, captured.mask_TC))
    if checks[-1].verdict != "fail" and subject.kind == "concepts":
        checks += check_concepts(captured.z_TCD, captured.mask_TC)
        checks += check_sinks(captured)
    return [check for check in checks if check is not None]


def worst(checks: Iterable[Check]) -> Verdict:
    """The verdict over all checks."""
    verdicts = {check.verdict for check in checks}
    return "fail" if "fail" in verdicts else "warn" if "warn" in verdicts else "ok"


def exit_code(checks: Iterable[Check]) -> int:
    """0 when nothing failed (warnings included), 1 otherwise."""
    return int(worst(checks) == "fail")


def health_report(checks: Sequence[Check]) -> dict:
    """JSON-able: the overall verdict, the exit code, and every check."""
    return {
        "verdict": worst(checks),
        "exit_code": exit_code(checks),
        "checks": [asdict(check) for check in checks],
    }


def check_weights(model: nn.Module) -> Check:
    """NaN or infinite weights, and weights that have exploded."""
    broken = [name for name, weight in model.named_parameters() if not torch.isfinite(weight).all()]
    if broken:
        return Check("weights", "fail", f"NaN or infinite in {_some(broken)}")
    name, largest = max(
        ((n, float(w.detach().abs().max())) for n, w in model.named_parameters()), key=lambda pair: pair[1]
    )
    verdict = _grade(largest, LARGE_WEIGHT, HUGE_WEIGHT)
    return Check("weights", verdict, f"all finite; largest {largest:.3g} in {name} (look above {LARGE_WEIGHT:g})")


def check_missing(subject: Subject) -> Check | None:
    """Weights that the file lacks were drawn at random when the checkpoint was loaded."""
    file = subject.folder and subject.folder / "model.safetensors"
    if not file or not file.is_file():
        return None
    try:
        with safe_open(file, "pt") as saved:
            names = set(saved.keys())
    except SafetensorError as error:
        return Check("weights in the file", "fail", f"{file.name} is damaged ({error})")
    # A bare encoder is saved without the prefix that it has inside a model with a head, and the other way round.
    prefix = f"{subject.model.base_model_prefix}."
    names |= {name.removeprefix(prefix) for name in names} | {prefix + name for name in names}
    weights = dict(subject.model.named_parameters(remove_duplicate=False))
    present = {weight.data_ptr() for name, weight in weights.items() if name in names}
    missing = [name for name, weight in weights.items() if weight.data_ptr() not in present]
    if missing:
        return Check("weights in the file", "fail", f"{len(missing)} missing, now random: {_some(missing)}")
    return Check("weights in the file", "ok", f"all {len(weights)} weights are in {file.name}")


def check_tied(model: nn.Module) -> Check | None:
    """A configuration that ties the head to the embeddings, and a head that is not tied, is a load gone wrong."""
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or embeddings is None:
        return None
    tied, wanted = head.weight is embeddings.weight, bool(getattr(model.config, "tie_word_embeddings", False))
    if wanted and not tied:
        return Check("tied head", "fail", "tie_word_embeddings is true, but the head has weights of its own")
    return Check("tied head", "ok", "head and embeddings share weights" if tied else "untied, as configured")


@torch.inference_mode()
def check_activations(subject: Subject, batch: Batch) -> list[Check]:
    """NaN, exploding activations and dead feed-forward units, seen by hooks during one batch."""
    inputs = batch.inputs
    if subject.separate_texts:  # the head wants pairs: each text beside itself
        inputs = {name: values.repeat_interleave(2, 0) for name, values in inputs.items()}
    largest: dict[str, float] = {}
    dead, units = 0, 0
    real_BN = inputs["attention_mask"].bool()

    def watch(name: str, module: nn.Module):
        def hook(_module: nn.Module, _inputs: tuple, output: object) -> None:
            nonlocal dead, units
            if not isinstance(output, Tensor) or not output.is_floating_point():
                return
            largest[name] = max(largest.get(name, 0.0), float(output.abs().max().nan_to_num(torch.inf)))
            if _is_activation(module) and output.ndim == 3:
                kept = output[real_BN] if output.shape[:2] == real_BN.shape else output.flatten(0, 1)
                spread = kept.amax(0) - kept.amin(0)
                dead += int((spread <= DEAD_SPREAD * spread.median()).sum())
                units += len(spread)

        return module.register_forward_hook(hook)

    hooks = [watch(name, module) for name, module in subject.model.named_modules() if name]
    try:
        pairs = subject.separate_texts
        subject.model(**{name: values.unflatten(0, (-1, 2)) if pairs else values for name, values in inputs.items()})
    finally:
        for hook in hooks:
            hook.remove()
    name, size = max(largest.items(), key=lambda pair: pair[1])
    limit = f"look above {LARGE_STATE:g}, half precision ends at 65,504"
    checks = [Check("activations", _grade(size, LARGE_STATE, HUGE_STATE), f"largest {size:.3g} at {name} ({limit})")]
    if units:
        share = dead / units
        evidence = f"{dead} of {units} feed-forward units hardly vary ({100 * share:.1f} %; look above 5 %)"
        checks.append(Check("dead units", _grade(share, 0.05, 0.5), evidence))
    return checks


def _is_activation(module: nn.Module) -> bool:
    return type(module).__module__ in ("torch.nn.modules.activation", "transformers.activations")


def check_states(z_TCD: Tensor, mask_TC: Tensor) -> Check:
    """NaN or infinite states."""
    broken_T = ~torch.isfinite(z_TCD).flatten(1).all(1)
    if broken_T.any():
        texts = torch.nonzero(broken_T).flatten().tolist()
        return Check("states", "fail", f"NaN or infinite for {len(texts)} of {len(broken_T)} texts: {_some(texts)}")
    norm = float(z_TCD[mask_TC].norm(dim=-1).mean())
    return Check("states", "ok", f"all finite; mean norm {norm:.3g}")


def check_dimensions(z_TCD: Tensor, mask_TC: Tensor) -> Check:
    """Dimensions of the states that never vary."""
    spread_D = z_TCD[mask_TC].std(0, correction=0)
    share = float((spread_D <= DEAD_SPREAD * spread_D.median()).float().mean())
    evidence = f"{100 * share:.1f} % of {len(spread_D)} dimensions hardly vary (look above 5 %)"
    return Check("dead dimensions", _grade(share, 0.05, 0.5), evidence)


def check_concepts(z_TCD: Tensor, mask_TC: Tensor) -> list[Check]:
    """Concepts that ignore the text, and concepts that are all one vector."""
    common = common_share(z_TCD, mask_TC)
    limit = f"look above {100 * NEARLY_ONE_VECTOR:g} %"
    evidence = f"a text's mean concept holds {100 * common:.2f} % of its energy ({limit})"
    checks = [Check("collapse", "warn" if common > NEARLY_ONE_VECTOR else "ok", evidence)]
    if len(z_TCD) >= TEXTS_FOR_CONTENT:
        dead, concepts = dead_concepts(z_TCD, mask_TC), int(mask_TC.any(0).sum())
        seen = f"{len(dead)} of {concepts} say the same about every text (look above 10 %)"
        checks.append(Check("dead concepts", "warn" if len(dead) > 0.1 * concepts else "ok", seen))
    return checks


def check_sinks(captured: Capture) -> list[Check]:
    """Reads in which special tokens, or one single token, take half of all attention."""
    if not captured.reads:
        return []
    special = [float(tally.special_share()[tally.seen_C > 0].mean()) for tally in captured.reads]
    single = [tally.sink_share() for tally in captured.reads]
    read, share = max(enumerate(special, start=1), key=lambda pair: pair[1])
    other, most = max(enumerate(single, start=1), key=lambda pair: pair[1])
    evidence = (
        f"special tokens take at most {100 * share:.0f} % of a read (read {read}), the most attended token "
        f"{100 * most:.0f} % (read {other}); look above {100 * SINK:.0f} %"
    )
    return [Check("attention sinks", "warn" if max(share, most) > SINK else "ok", evidence)]


def _grade(value: float, warn: float, fail: float) -> Verdict:
    return "ok" if value <= warn else "warn" if value <= fail else "fail"


def _some(items: Sequence[object]) -> str:
    """The first three, and how many more."""
    shown = ", ".join(map(str, items[:3]))
    return f"{shown} and {len(items) - 3} more" if len(items) > 3 else shown

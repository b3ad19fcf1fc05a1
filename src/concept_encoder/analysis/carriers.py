"""Which concepts carry a task: how much of a concept's variance over texts the label explains.

For concept c the share is that of a one-way analysis of variance over the concept's D dimensions at once (McArdle &
Anderson 2001, distance-based redundancy analysis with Euclidean distances), corrected for chance as an adjusted R²:

    share_c = 1 - (1 - R²_c) (n - 1) / (n - 1 - k),     R²_c = |fitted values|² / |centred states|²

n texts that have the concept, k classes - 1 (1 for a label that is a number: a linear fit). Its mean is 0 where the
label says nothing, and it is 1 where the label decides the state. Nothing is trained and no head is needed, so a
pretrained checkpoint can be asked too. Carrying a label is not using it: beside it stands the loss that is added
when the concept is replaced by its mean.

**threshold**: the same after the labels were shuffled over texts, the largest share of any concept, exceeded in 5 %
of the shufflings (Westfall & Young 1993: corrected for the number of concepts).

Shapes: T texts, C concepts, D width, K columns of the label (one a class; one for a
number), P orders of the labels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from concept_encoder.analysis.rank import full_mask

LABELLED_TEXTS_NEEDED = 50
SHUFFLINGS = 99
FALSE_ALARMS = 0.05


def carriers(
    z_TCD: Tensor,
    labels: Sequence[int] | Sequence[float],
    mask_TC: Tensor | None = None,
    *,
    classes: int | None,
    seed: int = 0,
) -> dict:
    """The share of each concept with the threshold, JSON-able; None for a concept that too few texts have.

    Args:
        classes: how many there are; None where the labels are numbers.
    """
    mask_TC = full_mask(z_TCD) if mask_TC is None else mask_TC
    label_TK = _columns(labels, classes)
    judged_C = mask_TC.sum(0) >= max(LABELLED_TEXTS_NEEDED, 2 * label_TK.shape[1])
    report: dict = {"texts": len(z_TCD), "judged": int(judged_C.sum()), "notes": []}
    if not judged_C.any():
        need = f"{max(LABELLED_TEXTS_NEEDED, 2 * label_TK.shape[1])} labelled texts"
        report["notes"].append(f"which concepts carry the label needs at least {need}, got {len(z_TCD)}")
        return report
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.arange(len(z_TCD)), *(torch.randperm(len(z_TCD), generator=generator) for _ in range(SHUFFLINGS))]
    label_PTK = torch.stack([label_TK[order] for order in orders])
    share_PC = torch.stack([_shares(z_TCD[:, c].float(), mask_TC[:, c], label_PTK) for c in range(z_TCD.shape[1])], 1)
    share_C, most_P = share_PC[0], share_PC[1:, judged_C].amax(1).sort(descending=True).values
    threshold = float(most_P[int(FALSE_ALARMS * (SHUFFLINGS + 1)) - 1])
    above = torch.nonzero(judged_C & (share_C > threshold)).flatten().tolist()
    return report | {
        "shares": [round(share, 5) if judged else None for share, judged in zip(share_C.tolist(), judged_C.tolist())],
        "threshold": round(threshold, 5),
        "shufflings": SHUFFLINGS,
        "carriers": sorted(above, key=lambda concept: (-float(share_C[concept]), concept)),
    }


def _columns(labels: Sequence[int] | Sequence[float], classes: int | None) -> Tensor:
    """One column a class, or one with the numbers."""
    if classes is None:
        return torch.tensor(labels, dtype=torch.float32)[:, None]
    return torch.nn.functional.one_hot(torch.tensor(labels), classes).float()


def _shares(state_TD: Tensor, has_T: Tensor, label_PTK: Tensor) -> Tensor:
    """The corrected share of one concept under each order of the labels [P]; texts without the concept are left out."""
    state_TD, label_PTK = state_TD[has_T], label_PTK[:, has_T]
    if len(state_TD) < 2:
        return torch.zeros(len(label_PTK))
    state_TD = state_TD - state_TD.mean(0)
    if numbers := label_PTK.shape[2] == 1:
        label_PTK = label_PTK - label_PTK.mean(1, keepdim=True)  # columns of classes are orthogonal as they are
    size_PK = label_PTK.square().sum(1)
    fitted_PKD = (label_PTK.mT.flatten(0, 1) @ state_TD).unflatten(0, size_PK.shape)
    explained_P = (fitted_PKD.square().sum(2) / size_PK.clamp_min(1e-12)).sum(1)
    freedom_P = (size_PK > 1e-9).sum(1) - (0 if numbers else 1)
    rest_P = 1 - explained_P / state_TD.square().sum().clamp_min(1e-12)
    return 1 - rest_P * (len(state_TD) - 1) / (len(state_TD) - 1 - freedom_P).clamp_min(1)

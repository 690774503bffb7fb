"""The losses of the pretext tasks, as functions of predictions and targets.

Each rank's result is such that the mean over the ranks is the loss over the rows of all ranks.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from product1m.training.distributed import gather_rows, num_rows_by_rank, rank, weigh


def masked_language_loss(
    scores: Float[Tensor, "M V"], truth: Int[Tensor, " M"]
) -> Float[Tensor, ""]:
    """Cross-entropy over the masked tokens, in nats; 0 if none is masked (paper)."""
    total = functional.cross_entropy(scores.float(), truth, reduction="sum")
    return weigh(total / max(1, len(truth)), len(truth))


def masked_region_loss(
    predicted: Float[Tensor, "M F"], truth: Float[Tensor, "M F"]
) -> Float[Tensor, ""]:
    """Mean squared error over the masked regions; 0 if none is masked (paper)."""
    total = functional.mse_loss(predicted.float(), truth, reduction="sum")
    return weigh(total / max(1, truth.numel()), len(truth))


def matching_loss(logits: Float[Tensor, " B"], matches: Bool[Tensor, " B"]) -> Float[Tensor, ""]:
    """Binary cross-entropy of image-text matching, in nats."""
    mean = functional.binary_cross_entropy_with_logits(logits.float(), matches.float())
    return weigh(mean, len(logits))


def contrastive_loss(
    left: Float[Tensor, "B E"],
    right: Float[Tensor, "B E"],
    groups: Int[Tensor, " B"],
    temperature: float | Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE: the positive of row i is row i of the other side (ours).

    Negatives are the other side's rows of all ranks, except those of i's group, which may show the
    same product. Mean over both directions and the anchors, in nats.
    """
    same = _same_group(groups)
    own = _own_columns(left)
    same.scatter_(1, own[:, None], False)
    losses = [
        _mean_cross_entropy(
            _similarities(anchors, others, temperature).masked_fill(same, -torch.inf), own
        )
        for anchors, others in ((left, right), (right, left))
    ]
    return weigh(torch.stack(losses).mean(), len(left))


def released_contrastive_loss(
    text: Float[Tensor, "B E"],
    image: Float[Tensor, "B E"],
    groups: Int[Tensor, " B"],
    temperature: float | Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """InfoNCE with negatives from both modalities (released code).

    Every sample of either modality is an anchor. Its partner is the positive; all other samples of
    all ranks are negatives, except those of its group (ours). Mean over anchors, in nats.
    """
    own = _own_columns(text)
    same = _same_group(groups)
    across = same.scatter(1, own[:, None], False)
    losses = []
    for anchors, partners in ((text, image), (image, text)):
        scores = torch.cat(
            [
                _similarities(anchors, partners, temperature).masked_fill(across, -torch.inf),
                _similarities(anchors, anchors, temperature).masked_fill(same, -torch.inf),
            ],
            dim=1,
        )
        losses.append(_mean_cross_entropy(scores, own))
    return weigh(torch.stack(losses).mean(), len(text))


def _own_columns(rows: Float[Tensor, "B E"]) -> Int[Tensor, " B"]:
    """Positions of this rank's rows among the rows of all ranks."""
    return torch.arange(len(rows), device=rows.device) + sum(num_rows_by_rank(rows)[: rank()])


def _mean_cross_entropy(
    scores: Float[Tensor, "B W"], truth: Int[Tensor, " B"]
) -> Float[Tensor, ""]:
    """Mean cross-entropy; 0 for a rank without rows, where the mean would be NaN."""
    return functional.cross_entropy(scores, truth, reduction="mean" if len(truth) else "sum")


def _same_group(groups: Int[Tensor, " B"]) -> Bool[Tensor, "B W"]:
    return groups[:, None] == gather_rows(groups)[None, :]


def _similarities(
    anchors: Float[Tensor, "B E"],
    others: Float[Tensor, "B E"],
    temperature: float | Float[Tensor, ""],
) -> Float[Tensor, "B W"]:
    """Cosines divided by the temperature, in float32 whatever the network's precision."""
    with torch.autocast(anchors.device.type, enabled=False):
        gathered = gather_rows(functional.normalize(others.float(), dim=1))
        return functional.normalize(anchors.float(), dim=1) @ gathered.T / temperature

"""The pretext tasks' losses, each as a function of predictions and truths."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from product1m.training.distributed import gather_rows, rank


def masked_language_loss(
    scores: Float[Tensor, "M V"], truth: Int[Tensor, " M"]
) -> Float[Tensor, ""]:
    """Cross-entropy over the masked tokens, in nats; 0 where none is masked (paper)."""
    return functional.cross_entropy(scores.float(), truth, reduction="sum") / max(1, len(truth))


def masked_region_loss(
    predicted: Float[Tensor, "M F"], truth: Float[Tensor, "M F"]
) -> Float[Tensor, ""]:
    """Mean squared error over the masked regions; 0 where none is masked (paper)."""
    return functional.mse_loss(predicted.float(), truth, reduction="sum") / max(1, truth.numel())


def matching_loss(logits: Float[Tensor, " B"], matches: Bool[Tensor, " B"]) -> Float[Tensor, ""]:
    """Binary cross-entropy of image-text matching, in nats."""
    return functional.binary_cross_entropy_with_logits(logits.float(), matches.float())


def contrastive_loss(
    left: Float[Tensor, "B E"],
    right: Float[Tensor, "B E"],
    groups: Int[Tensor, " B"],
    temperature: float | Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE: row i of each side finds row i of the other among all ranks' rows (ours).

    Rows of i's own group are neither its positive nor its negatives: false negatives are left out.
    Mean over both directions and the anchors, in nats.
    """
    same = _same_group(groups)
    own = torch.arange(len(left), device=left.device) + rank() * len(left)
    same.scatter_(1, own[:, None], False)
    losses = [
        functional.cross_entropy(
            _similarities(anchors, others, temperature).masked_fill(same, -torch.inf), own
        )
        for anchors, others in ((left, right), (right, left))
    ]
    return torch.stack(losses).mean()


def released_contrastive_loss(
    text: Float[Tensor, "B E"],
    image: Float[Tensor, "B E"],
    groups: Int[Tensor, " B"],
    temperature: float | Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """InfoNCE in which samples of the anchor's own modality are negatives too (released code).

    Every sample of either modality is an anchor; its partner is the positive, all others of all
    ranks are negatives but those of its group (ours). Mean over anchors, in nats.
    """
    B = len(text)
    own = torch.arange(B, device=text.device) + rank() * B
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
        losses.append(functional.cross_entropy(scores, own))
    return torch.stack(losses).mean()


def _same_group(groups: Int[Tensor, " B"]) -> Bool[Tensor, "B W"]:
    return groups[:, None] == gather_rows(groups)[None, :]


def _similarities(
    anchors: Float[Tensor, "B E"],
    others: Float[Tensor, "B E"],
    temperature: float | Float[Tensor, ""],
) -> Float[Tensor, "B W"]:
    """Cosines over the temperature, in float32 whatever the network computes in."""
    with torch.autocast(anchors.device.type, enabled=False):
        gathered = gather_rows(functional.normalize(others.float(), dim=1))
        return functional.normalize(anchors.float(), dim=1) @ gathered.T / temperature

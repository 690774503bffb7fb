"""The losses as plain loops over their definitions, in Python floats."""

import math
from collections.abc import Sequence

from torch import Tensor

Rows = Sequence[Sequence[float]]


def contrastive_loss(
    left: Tensor, right: Tensor, groups: Sequence[int], temperature: float
) -> float:
    """Mean over both directions and all rows of -log p(partner), rows of one group left out."""
    losses = []
    for anchors, others in ((left.tolist(), right.tolist()), (right.tolist(), left.tolist())):
        for i, anchor in enumerate(anchors):
            total = 0.0
            for j, other in enumerate(others):
                if j == i or groups[j] != groups[i]:
                    total += math.exp(cosine(anchor, other) / temperature)
            losses.append(math.log(total) - cosine(anchor, others[i]) / temperature)
    return sum(losses) / len(losses)


def released_contrastive_loss(
    text: Tensor, image: Tensor, groups: Sequence[int], temperature: float
) -> float:
    """-(1/2B) Σ log(exp(z_i·z_p(i)/τ) / Σ_{k≠i} exp(z_i·z_k/τ)) over both modalities as one list.

    Rows of the anchor's group are left out of the sum, its partner excepted.
    """
    rows = text.tolist() + image.tolist()
    group_of = [*groups, *groups]
    B, losses = len(text), []
    for i, anchor in enumerate(rows):
        partner = (i + B) % (2 * B)
        total = 0.0
        for k, other in enumerate(rows):
            if k != i and (k == partner or group_of[k] != group_of[i]):
                total += math.exp(cosine(anchor, other) / temperature)
        losses.append(math.log(total) - cosine(anchor, rows[partner]) / temperature)
    return sum(losses) / len(losses)


def masked_language_loss(scores: Tensor, truth: Tensor) -> float:
    """Mean of -log softmax(scores)[truth]."""
    losses: list[float] = []
    for row, correct in zip(scores.tolist(), truth.tolist(), strict=True):
        losses.append(math.log(sum(math.exp(score) for score in row)) - row[correct])
    return sum(losses) / len(losses)


def masked_region_loss(predicted: Tensor, truth: Tensor) -> float:
    """Mean of the squared differences over regions and dimensions."""
    squares: list[float] = [
        (a - b) ** 2
        for row, correct in zip(predicted.tolist(), truth.tolist(), strict=True)
        for a, b in zip(row, correct, strict=True)
    ]
    return sum(squares) / len(squares)


def matching_loss(logits: Tensor, matches: Tensor) -> float:
    """Mean of -log of the probability given to what is so."""
    losses = []
    for logit, match in zip(logits.tolist(), matches.tolist(), strict=True):
        probability = 1 / (1 + math.exp(-logit))
        losses.append(-math.log(probability if match else 1 - probability))
    return sum(losses) / len(losses)


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    """Cosine of the angle between two vectors."""
    product = sum(x * y for x, y in zip(a, b, strict=True))
    return product / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes x1, y1, x2, y2."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def selected_boxes(
    boxes: Sequence[Sequence[float]], scores: Sequence[float], min_score: float, max_iou: float
) -> list[int]:
    """Rows of the boxes that a photo shows as products, by falling score."""
    left, kept = dict(enumerate(scores)), []
    surest = max(scores, default=0.0)
    shown = surest * (1 - min_score) >= 1.25 * min_score * (1 - surest)
    while shown and left and max(left.values()) >= min_score:
        best = max(left, key=left.__getitem__)
        kept.append(best)
        del left[best]
        left = {
            row: score for row, score in left.items() if iou(boxes[best], boxes[row]) <= max_iou
        }
        for row in left:
            left[row] *= 1 - 0.5 * common_share(boxes[best], boxes[row]) ** 2
    return sorted(kept, key=lambda row: -scores[row])


def common_share(a: Sequence[float], b: Sequence[float]) -> float:
    """Common area of two boxes relative to the smaller one."""
    overlap = iou(a, b)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return overlap / (1 + overlap) * sum(areas) / min(areas)

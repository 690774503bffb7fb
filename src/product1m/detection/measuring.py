"""The network on scenes it never saw, beside two baselines on the same scenes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32
from torchvision.ops import nms

from product1m.config import EvaluationConfig
from product1m.detection.canvas import stack_canvases
from product1m.detection.proposals import ProposalNetwork
from product1m.detection.recall import average_recall, precision_and_recall, recall
from product1m.detection.scene_batches import Boxes, Scenes
from product1m.telemetry.progress import track

DEPTHS = (1, 10, 36, 100)
"""Numbers of proposals at which average recall is measured; 36 is what feature extraction keeps."""

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
"""Scores that are tried as the threshold of an instance (ours)."""


@dataclass(frozen=True)
class Found:
    """What the network proposes on one scene, best first, in pixels of the stored scene."""

    boxes_xyxy: Boxes
    scores: Float32[np.ndarray, " P"]

    def instances(self, min_score: float | None = None) -> "Found":
        """What `evaluation` would take for instances under its defaults, or another threshold."""
        config = EvaluationConfig()
        threshold = config.instance_min_score if min_score is None else min_score
        kept = nms(
            torch.from_numpy(self.boxes_xyxy),
            torch.from_numpy(self.scores),
            config.instance_nms_iou,
        ).numpy()
        kept = kept[self.scores[kept] >= threshold][: config.max_instances]
        return Found(self.boxes_xyxy[kept], self.scores[kept])


@torch.inference_mode()
def propose_on(network: ProposalNetwork, scenes: Scenes, positions: Sequence[int]) -> list[Found]:
    """The proposals on scenes, one scene at a time; the network must be in evaluation mode."""
    found: list[Found] = []
    for position in track(positions, "held-out scenes"):
        canvas = network.canvas(scenes.items.photo(position))
        maps = network(stack_canvases([canvas]).to(network.device))
        (proposals,) = network.propose(maps, [canvas.inner_px])
        boxes = proposals.boxes_xyxy.cpu().numpy() / canvas.scale()
        found.append(Found(boxes.astype(np.float32), proposals.scores.cpu().numpy()))
    return found


def recalls(boxes: Sequence[Boxes], truth: Sequence[Boxes]) -> dict[str, float]:
    """COCO's average recall, and recall at IoU 0.5, of the best boxes of every scene."""
    return {
        **{f"AR@{depth}": average_recall(boxes, truth, depth) for depth in DEPTHS},
        **{f"recall@0.5/{depth}": recall(boxes, truth, depth, 0.5) for depth in DEPTHS},
    }


def measure(found: Sequence[Found], truth: Sequence[Boxes]) -> dict[str, float]:
    """Recall of the proposals, and how far their scores can be trusted to tell instances.

    `instances/best_min_score` is the threshold of the highest F1 on these scenes: what
    `evaluation.instance_min_score` might be set to.
    """
    instances = [one.instances().boxes_xyxy for one in found]
    precision, share_found = precision_and_recall(instances, truth)
    best = max(THRESHOLDS, key=lambda threshold: f1(found, truth, threshold))
    return {
        **recalls([one.boxes_xyxy for one in found], truth),
        "instances/precision": precision,
        "instances/recall": share_found,
        "instances/found": float(np.mean([len(one) for one in instances])),
        "instances/true": float(np.mean([len(one) for one in truth])),
        "instances/best_min_score": best,
        "instances/best_f1": f1(found, truth, best),
    }


def f1(found: Sequence[Found], truth: Sequence[Boxes], min_score: float) -> float:
    """Harmonic mean of the instances' precision and recall above a score."""
    instances = [one.instances(min_score).boxes_xyxy for one in found]
    precision, share_found = precision_and_recall(instances, truth)
    return 2 * precision * share_found / max(precision + share_found, 1e-9)

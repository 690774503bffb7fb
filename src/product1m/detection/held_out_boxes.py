"""Proposals and true boxes of the held-out scenes, stored with the network.

The evaluation measures its thresholds on them, so a changed threshold needs no new training.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from product1m.artifacts.folder import Artifact
from product1m.data.geometry import Boxes
from product1m.detection.measuring import DEPTHS, ScoredBoxes

HELD_OUT_BOXES = "held_out_boxes.safetensors"


@dataclass(frozen=True)
class HeldOutBoxes:
    """Element i of both lists belongs to the same scene; boxes in pixels of the stored scene."""

    proposals: Sequence[ScoredBoxes]
    truth: Sequence[Boxes]

    def write(self, folder: Path) -> None:
        """Write the file, with the best `max(DEPTHS)` proposals of every scene."""
        best = [scene.best(max(DEPTHS)) for scene in self.proposals]
        tensors = {
            "proposals_xyxy": np.concatenate([scene.boxes_xyxy for scene in best]),
            "scores": np.concatenate([scene.scores for scene in best]),
            "num_proposals": np.array([len(scene.scores) for scene in best], np.int64),
            "true_xyxy": np.concatenate(self.truth),
            "num_true": np.array([len(true) for true in self.truth], np.int64),
        }
        save_file(tensors, folder / HELD_OUT_BOXES)


def read_held_out_boxes(rpn: Artifact) -> HeldOutBoxes:
    """The boxes stored in an artifact of RPN training."""
    tensors = load_file(rpn.file(HELD_OUT_BOXES))
    ends = np.cumsum(tensors["num_proposals"])[:-1]
    boxes, scores = np.split(tensors["proposals_xyxy"], ends), np.split(tensors["scores"], ends)
    truth = np.split(tensors["true_xyxy"], np.cumsum(tensors["num_true"])[:-1])
    return HeldOutBoxes([ScoredBoxes(*pair) for pair in zip(boxes, scores, strict=True)], truth)

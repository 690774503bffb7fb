"""Thresholds of the evaluation, measured on the scenes that synthesis held out."""

from pathlib import Path

import numpy as np
import pytest

from product1m.artifacts.folder import open_artifact, write_artifact
from product1m.data.geometry import BoxSelection
from product1m.detection.held_out_boxes import HeldOutBoxes, read_held_out_boxes
from product1m.detection.measuring import DEPTHS, ScoredBoxes, selection_figures
from product1m.detection.proposals import load_rpn
from product1m.detection.scene_batches import Scenes
from product1m.detection.scene_proposals import propose_on
from tests.support.oracles import loops
from tests.support.worlds.tiny_chain import CONFIG, evaluate
from tests.support.worlds.tiny_scenes import RPN
from tests.support.worlds.tiny_world import TinyArtifacts

LEFT, RIGHT = [0, 0, 10, 10], [40, 40, 50, 50]


def number_selected(scene: ScoredBoxes, min_score: float, max_iou: float) -> int:
    """Boxes left of a scene by the thresholds and the chain's maximum, in plain loops."""
    boxes, scores = scene.boxes_xyxy.tolist(), scene.scores.tolist()
    kept = loops.selected_boxes(boxes, scores, min_score, max_iou)
    return min(len(kept), CONFIG.evaluation.max_instances)


def test_the_evaluation_measures_its_own_minimum_score(made: TinyArtifacts, tmp_path: Path) -> None:
    rpn = open_artifact(made.rpn, "rpn_training")
    scenes = Scenes(open_artifact(made.scenes, "background_synthesis"))
    proposals = propose_on(load_rpn(rpn), scenes, scenes.split("held_out"))
    max_iou = rpn.manifest.details["boxes"]["nms_iou"]
    highest = 0.79 * float(max(scene.scores[0] for scene in proposals))
    changed = {"instance_min_score": highest, "encode_crops": False, "num_bootstrap": 2}
    evaluate(made, tmp_path / "evaluation", CONFIG.evaluation.model_copy(update=changed))
    for folder, min_score in (
        (made.evaluation, CONFIG.evaluation.instance_min_score),
        (tmp_path / "evaluation", highest),
    ):
        done = open_artifact(folder, "evaluation")
        expected = np.mean([number_selected(scene, min_score, max_iou) for scene in proposals])
        assert done.manifest.metrics["held_out_scenes/boxes_per_scene"] == expected
        assert "boxes on held-out scenes" in done.file("report.html").read_text("utf-8")
    assert expected > 0


def test_a_higher_minimum_score_trades_recall_for_precision() -> None:
    scene = ScoredBoxes(np.array([LEFT, RIGHT], np.float32), np.array([0.9, 0.6], np.float32))
    truth = [np.array([LEFT], np.float32), np.array([LEFT, RIGHT], np.float32)]
    both, confident = (
        selection_figures([scene, scene], truth, BoxSelection(min_score, 0.3, 8))
        for min_score in (0.5, 0.7)
    )
    assert (both["precision"], both["recall"], both["boxes_per_scene"]) == (0.75, 1, 2)
    assert (confident["precision"], confident["boxes_per_scene"]) == (1, 1)
    assert confident["recall"] == pytest.approx(2 / 3)
    assert confident["f1"] == pytest.approx(0.8)


def test_stored_boxes_are_read_back_scene_by_scene(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    many = max(DEPTHS) + 20
    numbers = [0, 3, many]
    proposals = [
        ScoredBoxes(
            generator.random((number, 4), np.float32), np.sort(generator.random(number, np.float32))
        )
        for number in numbers
    ]
    truth = [generator.random((number, 4), np.float32) for number in (2, 0, 1)]
    with write_artifact(tmp_path / "rpn", "rpn_training", RPN) as writer:
        HeldOutBoxes(proposals, truth).write(writer.folder)
    read = read_held_out_boxes(open_artifact(tmp_path / "rpn", "rpn_training"))
    assert [len(scene.scores) for scene in read.proposals] == [0, 3, max(DEPTHS)]
    for scene, written in zip(read.proposals, proposals, strict=True):
        np.testing.assert_array_equal(scene.boxes_xyxy, written.boxes_xyxy[: max(DEPTHS)])
        np.testing.assert_array_equal(scene.scores, written.scores[: max(DEPTHS)])
    for true, expected in zip(read.truth, truth, strict=True):
        np.testing.assert_array_equal(true, expected)

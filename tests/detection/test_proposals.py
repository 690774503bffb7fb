"""The proposal network: its losses by plain loops, its proposals, its checkpoint."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from product1m.artifacts.folder import open_artifact, write_artifact
from product1m.data.geometry import pairwise_iou
from product1m.detection.canvas import make_canvas, stack_canvases
from product1m.detection.proposals import MODEL, NetworkSettings, ProposalNetwork, load_rpn
from product1m.errors import ArtifactError
from tests.support.worlds.tiny_scenes import RPN

SIDE_PX = 32  # 110 anchors, fewer than a step samples, so that nothing is left to chance
STRIDES = (8, 16, 32, 64)


@pytest.fixture
def network() -> ProposalNetwork:
    torch.manual_seed(0)
    return ProposalNetwork(NetworkSettings.from_config(RPN), "none")


def photos(count: int, side_px: int = SIDE_PX) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(
        0, 256, (count, 3, side_px, side_px), dtype=torch.uint8, generator=generator
    )


def anchors_by_hand() -> list[list[float]]:
    """Cell by cell, shape by shape: sides of eight strides, rounded as the library rounds them."""
    anchors = []
    for stride in STRIDES:
        cells = max(1, SIDE_PX // stride)
        step = SIDE_PX // cells
        for row, column, ratio in itertools.product(range(cells), range(cells), RPN.anchor_ratios):
            height, width = 8 * stride * math.sqrt(ratio), 8 * stride / math.sqrt(ratio)
            x, y = column * step, row * step
            halves = [float(torch.tensor(side / 2).round()) for side in (width, height)]
            anchors.append([x - halves[0], y - halves[1], x + halves[0], y + halves[1]])
    return anchors


def losses_by_hand(
    logits: list[float], deltas: Float[np.ndarray, "A 4"], product: list[float]
) -> tuple[float, float]:
    """Faster R-CNN's losses of one photo with one product, all anchors sampled."""
    anchors = np.array(anchors_by_hand())
    overlap = pairwise_iou(anchors, np.array([product]))[:, 0]
    objectness, regression, sampled = [], 0.0, 0
    for anchor, iou, logit, delta in zip(anchors, overlap, logits, deltas, strict=True):
        positive = iou >= 0.7 or iou == overlap.max()
        if not positive and iou >= 0.3:
            continue
        sampled += 1
        objectness.append(
            float(
                binary_cross_entropy_with_logits(torch.tensor(logit), torch.tensor(float(positive)))
            )
        )
        if positive:
            width, height = anchor[2] - anchor[0], anchor[3] - anchor[1]
            wanted = (
                ((product[0] + product[2]) - (anchor[0] + anchor[2])) / 2 / width,
                ((product[1] + product[3]) - (anchor[1] + anchor[3])) / 2 / height,
                math.log((product[2] - product[0]) / width),
                math.log((product[3] - product[1]) / height),
            )
            for found, target in zip(delta, wanted, strict=True):
                error = abs(found - target)
                regression += error - 1 / 18 if error > 1 / 9 else error**2 * 4.5
    return float(np.mean(objectness)), regression / sampled


def test_losses_equal_faster_rcnns_by_plain_loops(network: ProposalNetwork) -> None:
    product = [3.0, 5.0, 29.0, 26.0]
    with torch.no_grad():
        maps = network(photos(1))
        named = {str(level): level_map for level, level_map in enumerate(maps)}
        logits, deltas = network.rpn.head(list(network.fpn(named).values()))
        losses = network.losses(maps, [torch.tensor([product])])
    # [1, A, H, W] to cells in reading order, the shapes of a cell together.
    flat = torch.cat([level[0].permute(1, 2, 0).reshape(-1) for level in logits])
    boxes = torch.cat([level[0].permute(1, 2, 0).reshape(-1, 4) for level in deltas])
    objectness, regression = losses_by_hand(flat.tolist(), boxes.numpy(), product)
    assert float(losses["objectness"]) == pytest.approx(objectness, rel=1e-4)
    assert float(losses["boxes"]) == pytest.approx(regression, rel=1e-4)


def test_a_photo_without_products_teaches_that_there_are_none(network: ProposalNetwork) -> None:
    with torch.no_grad():
        losses = network.losses(network(photos(1)), [torch.empty(0, 4)])
    assert float(losses["objectness"]) == pytest.approx(math.log(2), abs=0.05)
    assert float(losses["boxes"]) == 0


def test_proposals_lie_in_the_photo_best_first_and_apart(network: ProposalNetwork) -> None:
    torch.nn.init.normal_(network.rpn.head.cls_logits.weight, std=1.0)
    inner = [(96, 70), (50, 96)]
    with torch.no_grad():
        found = network.eval().propose(network(photos(2, 96)), inner)
    for (height, width), proposals in zip(inner, found, strict=True):
        boxes = proposals.boxes_xyxy
        assert 5 < len(boxes) <= RPN.num_proposals
        assert boxes.min() >= 0
        assert boxes[:, [0, 2]].max() <= width
        assert boxes[:, [1, 3]].max() <= height
        assert proposals.scores.diff().max() <= 0
        assert proposals.scores.min() >= 0
        assert proposals.scores.max() <= 1
        overlap = pairwise_iou(boxes.numpy()) - np.eye(len(boxes))
        assert overlap.max() <= RPN.nms_iou + 1e-6


def test_the_second_stage_judges_a_box_again_where_it_moved_it(network: ProposalNetwork) -> None:
    head = network.eval().box_head
    for layer in (head.shift, head.score):
        torch.nn.init.zeros_(layer.weight)
    a_quarter = 0.25 * head.coder.weights[0]
    with torch.no_grad():
        head.shift.bias.copy_(torch.tensor([a_quarter, 0, 0, 0]))  # of the width to the right
        maps, network.rpn.nms_thresh = network(photos(1, 96)), 1.0
        (first,) = network.first_stage(maps, [(96, 96)])
        (found,) = network.propose(maps, [(96, 96)])
    expected = first.boxes_xyxy[: network.num_boxes].clone()
    for _ in range(2):
        widths = expected[:, 2] - expected[:, 0]
        expected[:, [0, 2]] += 0.25 * widths[:, None]
        expected.clamp_(max=96)
    in_order = [sorted(boxes.tolist()) for boxes in (found.boxes_xyxy, expected)]
    np.testing.assert_allclose(in_order[0], in_order[1], atol=1e-3)


def test_bf16_losses_stay_close_to_float32(network: ProposalNetwork) -> None:
    box = [torch.tensor([[3.0, 5.0, 29.0, 26.0]])]
    with torch.no_grad():
        exact = network.losses(network(photos(1)), box)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = network.losses(network(photos(1)), box)
    for name, value in exact.items():
        assert float(rounded[name]) == pytest.approx(float(value), rel=0.05)


def test_a_canvas_holds_the_resized_photo_and_repeats_its_edge() -> None:
    photo = np.zeros((40, 100, 3), np.uint8)
    photo[:, -1] = 200
    canvas = make_canvas(photo, short_side_px=80, long_side_px=150)
    assert canvas.inner_px == (60, 150)  # the longer side's limit counts
    assert canvas.pixels.shape == (64, 160, 3)
    assert (canvas.pixels[:, 150:] == canvas.pixels[0, 149]).all()
    np.testing.assert_allclose(canvas.scale(), 1.5)
    assert stack_canvases([canvas]).shape == (1, 3, 64, 160)


def test_a_loaded_checkpoint_proposes_what_the_trained_network_did(
    network: ProposalNetwork, tmp_path: Path
) -> None:
    torch.nn.init.normal_(network.rpn.head.cls_logits.weight, std=1.0)
    with write_artifact(tmp_path / "rpn", "rpn_training", RPN) as writer:
        save_file(network.state_dict(), writer.folder / MODEL)
    loaded = load_rpn(open_artifact(tmp_path / "rpn", "rpn_training"))
    with torch.no_grad():
        (before,) = network.eval().propose(network(photos(1, 96)), [(96, 96)])
        (after,) = loaded.propose(loaded(photos(1, 96)), [(96, 96)])
    torch.testing.assert_close(after.boxes_xyxy, before.boxes_xyxy, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(after.scores, before.scores, rtol=1e-3, atol=1e-4)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_a_checkpoint_that_does_not_fit_its_configuration_is_refused(
    network: ProposalNetwork, tmp_path: Path
) -> None:
    with write_artifact(
        tmp_path / "rpn", "rpn_training", RPN.model_copy(update={"fpn_channels": 8})
    ) as writer:
        save_file(network.state_dict(), writer.folder / MODEL)
    artifact = open_artifact(tmp_path / "rpn", "rpn_training")
    with pytest.raises(ArtifactError, match=r"model.safetensors: does not fit"):
        load_rpn(artifact)
    artifact.manifest.config["backbone_name"] = "resnet101"
    with pytest.raises(ArtifactError, match=r"(?s)backbone_name.*run rpn_training again"):
        load_rpn(artifact)

"""The second stage: what it is taught, what it says of a box, and where it moves it."""

import numpy as np
import pytest
import torch

from product1m.detection.box_head import BoxHead, head_losses, targets
from tests.support.oracles import loops

NUM_FEATURES = 3 * 2 * 2 + 5 * 3 * 3
"""Of two maps with 3 and 5 channels: two bins a side on the finest, three on the other."""


@pytest.fixture
def head() -> BoxHead:
    torch.manual_seed(0)
    return BoxHead(channels=(3, 5), strides=(8, 16), width=8)


def test_a_box_is_worth_its_iou_from_one_half_on(head: BoxHead) -> None:
    generator = np.random.default_rng(0)
    corners = generator.uniform(0, 60, (40, 2))
    boxes = np.concatenate([corners, corners + generator.uniform(5, 40, (40, 2))], axis=1)
    true = np.array([[0.0, 0, 30, 30], [20, 20, 60, 70], [50, 0, 90, 40]])
    overlaps, shifts = targets(torch.tensor(boxes), torch.tensor(true), head.coder)
    best = [max((loops.iou(b, t), n) for n, t in enumerate(true.tolist())) for b in boxes.tolist()]
    expected = [iou if iou >= 0.5 else 0 for iou, _ in best]
    np.testing.assert_allclose(overlaps, expected, atol=1e-6)
    assert 0 < np.count_nonzero(expected) < len(expected)
    # The shift leads from a box to the product it overlaps most.
    moved = head.coder.decode_single(shifts, torch.tensor(boxes))
    for row, (iou, nearest) in enumerate(best):
        if iou > 0:
            np.testing.assert_allclose(moved[row], true[nearest], atol=1e-3)


def test_in_a_scene_without_products_no_box_shows_one(head: BoxHead) -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [5, 5, 20, 30]])
    overlaps, shifts = targets(boxes, torch.empty(0, 4), head.coder)
    assert overlaps.tolist() == [0, 0]
    losses = head_losses(head, torch.randn(2, NUM_FEATURES), overlaps, shifts)
    assert losses["shift"] == 0
    assert losses["product"] > 0


def test_losses_are_sums_over_the_boxes_by_their_number(head: BoxHead) -> None:
    features, overlaps = torch.randn(5, NUM_FEATURES), torch.tensor([1.0, 0, 0, 0.6, 0])
    shifts = torch.randn(5, 4)
    with torch.no_grad():
        losses = head_losses(head, features, overlaps, shifts)
        logits, predicted = head(features)
    product = distance = 0.0
    for row in range(5):
        share = 1 / (1 + np.exp(-float(logits[row])))
        wanted = float(overlaps[row])
        product -= wanted * np.log(share) + (1 - wanted) * np.log(1 - share)
        for off in (predicted[row] - shifts[row]).abs().tolist() if overlaps[row] else []:
            distance += 0.5 * off * off * 9 if off < 1 / 9 else off - 0.5 / 9
    assert float(losses["product"]) == pytest.approx(product / 5, rel=1e-5)
    assert float(losses["shift"]) == pytest.approx(2 * distance / 5, rel=1e-5)


def test_a_moved_box_stays_inside_the_photo(head: BoxHead) -> None:
    torch.nn.init.zeros_(head.shift.weight)
    with torch.no_grad():
        head.shift.bias.copy_(torch.tensor([10.0, 0, 0, 0]))  # one width to the right
    boxes = torch.tensor([[0.0, 0, 10, 10], [25, 0, 35, 10]])
    moved, scores = head.refine(torch.randn(2, NUM_FEATURES), boxes, (20, 40))
    np.testing.assert_allclose(moved.detach(), [[10, 0, 20, 10], [35, 0, 40, 10]], atol=1e-4)
    assert ((scores > 0) & (scores < 1)).all()


def test_features_of_a_box_do_not_depend_on_the_other_boxes(head: BoxHead) -> None:
    maps = [torch.randn(2, 3, 16, 16), torch.randn(2, 5, 8, 8)]
    boxes = [torch.tensor([[0.0, 0, 50, 50], [10, 20, 100, 90]]), torch.tensor([[3.0, 4, 50, 60]])]
    together = head.features(maps, boxes)
    assert together.shape == (3, NUM_FEATURES)
    alone = head.features([level[1:] for level in maps], boxes[1:])
    torch.testing.assert_close(together[2:], alone)


def test_a_box_unlike_all_products_loses_score_only_after_fitting(head: BoxHead) -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(400, NUM_FEATURES, generator=generator)
    overlaps = torch.cat([torch.ones(300), torch.zeros(100)])
    boxes = torch.tensor([[0.0, 0, 10, 10]]).repeat(400, 1)
    examples = [(features[:150], overlaps[:150]), (features[150:], overlaps[150:])]
    head.fit(examples, min_products=301)
    assert head.familiarity(torch.randn(3, 8) * 100).tolist() == [0, 0, 0]
    head.fit(examples, min_products=300)
    np.testing.assert_allclose(head.mean, features.mean(dim=0), atol=1e-5)
    np.testing.assert_allclose(head.deviation, features.std(dim=0, correction=0) * 1.01, rtol=0.01)
    strange = features + 50
    with torch.no_grad():
        for given, lowers in ((features, False), (strange, True)):
            _, scores = head.refine(given, boxes, (20, 20))
            alone = head(given)[0].sigmoid()
            lower = float((scores < alone * 0.99).float().mean())
            assert (lower > 0.95) if lowers else (lower < 0.3)
            assert (scores <= alone + 1e-6).all()

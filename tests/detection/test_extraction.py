"""Regions of photos: which boxes, from which size, and what vectors, by hand and by plain loops."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from jaxtyping import Float

from product1m.config import BackgroundSynthesisConfig, FeatureExtractionConfig
from product1m.data.photos import Photo
from product1m.detection.canvas import Canvas
from product1m.detection.extraction import (
    PhotoRegions,
    RegionSettings,
    extract_regions,
    extract_sized,
    keep_proposals,
    sized_photo,
)
from product1m.detection.pooling import pool, scale_of
from product1m.detection.proposals import NetworkSettings, ProposalNetwork, Proposals
from product1m.errors import ArtifactError
from product1m.synthesis.grabcut import GrabCutSettings
from tests.support.worlds.tiny_scenes import RPN, blocks

SETTINGS = RegionSettings.from_config(
    FeatureExtractionConfig(precision="float32", batch_size=4, canonical_side_px=48), None
)
GRABCUT = GrabCutSettings.from_config(BackgroundSynthesisConfig())
SIZES_PX = [(96, 96), (200, 100), (96, 96), (100, 150), (97, 96), (200, 100), (60, 60)]


@pytest.fixture(scope="module")
def network() -> ProposalNetwork:
    torch.manual_seed(0)
    network = ProposalNetwork(NetworkSettings.from_config(RPN), RPN.weights)
    torch.nn.init.normal_(network.rpn.head.cls_logits.weight, std=1.0)
    return network.eval()


@pytest.fixture(scope="module")
def photos() -> list[Photo]:
    generator = np.random.default_rng(0)
    return [blocks(generator, width, height) for width, height in SIZES_PX]


def apart(count: int, scores: list[float]) -> Proposals:
    """Boxes in a row that do not touch."""
    left = torch.arange(count) * 20.0
    boxes = torch.stack([left, left * 0, left + 10, left * 0 + 10], dim=1)
    return Proposals(boxes, torch.tensor(scores))


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.9, 0.8, 0.7, 0.6, 0.5], 4),  # all confident: as many as allowed
        ([0.9, 0.8, 0.7, 0.1, 0.1], 3),  # beyond the fewest only confident ones
        ([0.9, 0.1, 0.1, 0.1, 0.1], 2),  # the fewest are kept whatever their score
        ([0.1], 1),
        ([], 0),
    ],
)
def test_between_the_fewest_and_the_most_regions_score_decides(
    scores: list[float], expected: int
) -> None:
    kept = keep_proposals(
        apart(len(scores), scores), nms_iou=0.7, min_score=0.2, min_regions=2, max_regions=4
    )
    torch.testing.assert_close(kept.scores, torch.tensor(scores)[:expected])


def test_of_two_regions_that_overlap_much_the_better_is_kept() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 6]])
    proposals = Proposals(boxes, torch.tensor([0.9, 0.8, 0.7]))
    kept = keep_proposals(proposals, nms_iou=0.7, min_score=0.2, min_regions=10, max_regions=36)
    assert kept.boxes_xyxy.tolist() == [[0, 0, 10, 10], [0, 0, 10, 6]]


def roi_mean_by_hand(
    features: Float[np.ndarray, "F H W"], box: list[float], stride: int, bins: int
) -> Float[np.ndarray, " F"]:
    """RoIAlign's mean: two by two points a bin, each interpolated between four cell centers."""
    left, top, right, bottom = (side / stride - 0.5 for side in box)
    total = np.zeros(len(features))
    points = bins * 2
    for i in range(points):
        for j in range(points):
            y = np.clip(top + (i + 0.5) * (bottom - top) / points, 0, features.shape[1] - 1)
            x = np.clip(left + (j + 0.5) * (right - left) / points, 0, features.shape[2] - 1)
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, features.shape[1] - 1), min(x0 + 1, features.shape[2] - 1)
            dy, dx = y - y0, x - x0
            total += features[:, y0, x0] * (1 - dy) * (1 - dx) + features[:, y0, x1] * (1 - dy) * dx
            total += features[:, y1, x0] * dy * (1 - dx) + features[:, y1, x1] * dy * dx
    return total / points**2


def test_a_vector_is_the_mean_of_its_rois_bins() -> None:
    last_map = torch.randn(1, 5, 6, 8, generator=torch.Generator().manual_seed(0))
    boxes = [[0.0, 0.0, 256.0, 192.0], [40.0, 30.0, 100.0, 170.0], [200.0, 10.0, 256.0, 64.0]]
    (vectors,) = pool(last_map, [torch.tensor(boxes)], stride=32, roi_size=7)
    expected = [roi_mean_by_hand(last_map[0].double().numpy(), box, 32, 7) for box in boxes]
    np.testing.assert_allclose(vectors.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_a_region_is_pooled_where_it_is_closest_to_the_canonical_size() -> None:
    canvas = Canvas(np.zeros((640, 640, 3), np.uint8), (640, 640), (320, 320))
    # On the canvas 60, 130, 150, 280, 290 and 640 px; a limit is a power of two times 141 px.
    sides = np.array([30, 65, 75, 140, 145, 320], np.float32)
    boxes = np.stack([sides * 0, sides * 0, sides * 2, sides / 2], axis=1)
    assert scale_of(boxes, canvas, canonical_side_px=100, num_scales=3).tolist() == [
        0,
        0,
        1,
        1,
        2,
        2,
    ]


def test_every_vector_comes_from_the_map_of_its_size(
    network: ProposalNetwork, photos: list[Photo]
) -> None:
    small, large = np.array([[10, 10, 50, 40]], np.float32), np.array([[2, 2, 95, 95]], np.float32)
    extra = np.concatenate([small, large])
    ((regions, vectors),) = extract_sized(
        network, [sized_photo(network, photos[0], SETTINGS)], SETTINGS, [extra]
    )
    for photo_scale, box, found in ((0, small, vectors[0]), (1, large, vectors[1])):
        canvas = network.canvas(photos[0], 2**photo_scale)
        with torch.no_grad():
            last = network(torch.from_numpy(canvas.pixels).permute(2, 0, 1)[None])[-1][0]
        expected = roi_mean_by_hand(
            last.double().numpy(), (box[0] * canvas.scale()).tolist(), 32, SETTINGS.roi_size
        )
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    assert regions.features.dtype == np.float32


def test_a_photos_regions_do_not_depend_on_its_batch(
    network: ProposalNetwork, photos: list[Photo]
) -> None:
    sized = [sized_photo(network, photo, SETTINGS) for photo in photos]
    together = extract_sized(network, sized, SETTINGS)
    alone = [extract_sized(network, [photo], SETTINGS)[0] for photo in sized]
    for (first, _), (second, _) in zip(together, alone, strict=True):
        np.testing.assert_allclose(first.features, second.features, atol=1e-4)
        np.testing.assert_allclose(first.boxes_xyxy, second.boxes_xyxy, atol=1e-2)
        np.testing.assert_allclose(first.scores, second.scores, atol=1e-4)


def test_the_whole_photo_comes_first_and_the_rest_by_falling_score(
    network: ProposalNetwork, photos: list[Photo]
) -> None:
    results: list[PhotoRegions] = extract_regions(network, photos, SETTINGS)
    for (regions, extra), (width, height) in zip(results, SIZES_PX, strict=True):
        assert SETTINGS.min_regions < len(regions) <= SETTINGS.max_regions + 1
        assert regions.boxes_xyxy[0].tolist() == [0, 0, width, height]
        assert regions.scores[0] == 1
        assert (np.diff(regions.scores[1:]) <= 0).all()
        assert (regions.boxes_xyxy >= 0).all()
        assert (regions.boxes_xyxy <= np.array([width, height] * 2) + 1e-3).all()
        assert regions.features.shape == (len(regions), 320)
        assert regions.features.dtype == np.float16
        assert extra.shape == (0, 320)


def test_a_photo_without_proposals_is_one_region(
    network: ProposalNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network.rpn, "score_thresh", 2.0)  # no score reaches it
    ((regions, _),) = extract_regions(network, [np.zeros((96, 96, 3), np.uint8)], SETTINGS)
    assert len(regions) == 1
    assert regions.boxes_xyxy.tolist() == [[0, 0, 96, 96]]
    assert np.isfinite(regions.features).all()


def test_without_proposals_only_the_whole_photo_is_a_region(
    network: ProposalNetwork, photos: list[Photo]
) -> None:
    alone = replace(SETTINGS, proposals="whole_photo")
    proposed = extract_regions(network, photos, SETTINGS)
    for (regions, _), (expected, _) in zip(
        extract_regions(network, photos, alone), proposed, strict=True
    ):
        assert regions.boxes_xyxy.tolist() == expected.boxes_xyxy[:1].tolist()
        np.testing.assert_array_equal(regions.features, expected.features[:1])


def test_grabcut_proposes_the_box_of_what_stands_out(network: ProposalNetwork) -> None:
    photo = np.full((120, 160, 3), 240, np.uint8)
    photo[30:90, 50:110] = (180, 30, 60)
    settings = replace(SETTINGS, proposals="grabcut", grabcut=GRABCUT)
    ((regions, _),) = extract_regions(network, [photo], settings)
    assert regions.boxes_xyxy[0].tolist() == [0, 0, 160, 120]
    np.testing.assert_allclose(regions.boxes_xyxy[1:], [[50, 30, 110, 90]], atol=2)
    assert regions.scores.tolist() == [1, 1]
    box = regions.boxes_xyxy[1:]
    ((_, at_box),) = extract_regions(network, [photo], SETTINGS, [box])
    np.testing.assert_allclose(np.float32(regions.features[1:]), np.float32(at_box), atol=2e-3)


def test_grabcut_without_the_settings_of_the_scenes_says_what_to_do(
    network: ProposalNetwork, photos: list[Photo]
) -> None:
    settings = replace(SETTINGS, proposals="grabcut")
    with pytest.raises(ArtifactError, match="run rpn_training again"):
        extract_regions(network, photos[:1], settings)


@pytest.mark.parametrize("most", [1, 3])
def test_a_batch_that_does_not_fit_into_memory_is_extracted_in_smaller_ones(
    most: int, network: ProposalNetwork, photos: list[Photo], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = extract_regions(network, photos, SETTINGS)
    forward, sizes = ProposalNetwork.forward, []

    def limited(self: ProposalNetwork, batch: torch.Tensor) -> list[torch.Tensor]:
        sizes.append(len(batch))
        if len(batch) > most:
            raise torch.OutOfMemoryError
        return forward(self, batch)

    monkeypatch.setattr(ProposalNetwork, "forward", limited)
    settings = replace(SETTINGS, batch_size=16)
    equal = [photos[0]] * 4 + photos
    found = extract_regions(network, equal, settings)
    assert max(sizes) > most
    for (mine, _), (theirs, _) in zip(found[4:], expected, strict=True):
        np.testing.assert_allclose(mine.boxes_xyxy, theirs.boxes_xyxy, atol=1e-3)
        np.testing.assert_allclose(mine.features, theirs.features, rtol=2e-3, atol=1e-3)


def test_a_photo_that_does_not_fit_into_memory_alone_is_an_error(
    network: ProposalNetwork, photos: list[Photo], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(self: ProposalNetwork, batch: torch.Tensor) -> list[torch.Tensor]:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(ProposalNetwork, "forward", never)
    with pytest.raises(torch.OutOfMemoryError):
        extract_regions(network, photos, SETTINGS)

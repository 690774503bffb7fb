"""Whether a backbone finds the same product again in another scene."""

import copy

import numpy as np
import pytest
import torch

from product1m.data.geometry import Boxes
from product1m.detection.measuring import (
    BACKBONE_KEPT,
    IMAGE_ONLY,
    IMAGE_ONLY_BEFORE,
    IMAGE_ONLY_TRAINED,
)
from product1m.detection.proposals import NetworkSettings, ProposalNetwork
from product1m.detection.same_products import image_only_map, keep_if_apart
from product1m.detection.scene_batches import Scenes
from tests.support.worlds.tiny_scenes import RPN, write_scenes


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Scenes:
    return Scenes(write_scenes(tmp_path_factory.mktemp("scenes") / "scenes"))


def test_products_of_one_photo_are_found_by_their_vectors(
    scenes: Scenes, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = ProposalNetwork(NetworkSettings.from_config(RPN), RPN.weights).eval()
    assert [len(own) for own in scenes.sources] == [len(own) for own in scenes.boxes_xyxy]
    one_photo = [np.full(len(own), "p", object) for own in scenes.sources]
    monkeypatch.setattr(Scenes, "sources", one_photo)
    assert image_only_map(network, scenes, [0, 1, 2]) == 1
    alone = [np.array([f"{n}-{i}" for i in range(2)], object) for n in range(len(one_photo))]
    monkeypatch.setattr(Scenes, "sources", alone)
    assert image_only_map(network, scenes, [0, 1, 2]) == 0


def test_a_trained_backbone_stays_unless_it_tells_products_apart_less_well(
    scenes: Scenes, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_color = [
        np.array([str(scenes.items.photo(number)[y, x]) for x, y in centers(boxes)], object)
        for number, boxes in enumerate(scenes.boxes_xyxy)
    ]
    monkeypatch.setattr(Scenes, "sources", by_color)
    sees, blind = (ProposalNetwork(NetworkSettings.from_config(RPN), RPN.weights) for _ in range(2))
    for parameter in blind.backbone.parameters():
        parameter.data.zero_()
    own = copy.deepcopy(sees.backbone.state_dict())
    held_out = range(12)
    figures = keep_if_apart(sees, blind, scenes, held_out)
    assert figures[IMAGE_ONLY_BEFORE] > 1.2 * figures[IMAGE_ONLY_TRAINED]
    assert (figures[BACKBONE_KEPT], figures[IMAGE_ONLY]) == (0, figures[IMAGE_ONLY_BEFORE])
    figures = keep_if_apart(blind, sees, scenes, held_out)
    assert (figures[BACKBONE_KEPT], figures[IMAGE_ONLY]) == (1, figures[IMAGE_ONLY_TRAINED])
    for network in (sees, blind):
        assert network.backbone.frozen
        for name, value in network.backbone.state_dict().items():
            assert torch.equal(value, own[name]), name


def centers(boxes_xyxy: Boxes) -> list[list[int]]:
    middles = (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2
    return [[int(x), int(y)] for x, y in middles]

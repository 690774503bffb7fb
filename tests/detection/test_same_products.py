"""Whether a backbone finds the same product again in another scene."""

import numpy as np
import pytest

from product1m.detection.proposals import NetworkSettings, ProposalNetwork
from product1m.detection.same_products import image_only_map
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

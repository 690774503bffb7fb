"""What the second stage is taught: the scenes' proposals, and drawn photos without products."""

import pytest
import torch

from product1m.detection.box_head import targets
from product1m.detection.box_training import BoxBatches, BoxBatchSettings, around_pairs
from product1m.detection.map_cache import CacheSettings, cache_maps
from product1m.detection.proposals import NetworkSettings, ProposalNetwork, frozen_copy
from product1m.detection.scene_batches import SceneBatches, SceneBatchSettings, Scenes
from tests.support.worlds.tiny_scenes import RPN, write_scenes

NUM_INTERIORS = RPN.num_interiors
Made = tuple[ProposalNetwork, SceneBatches]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """An untrained network, and batches of four small scenes."""
    scenes = Scenes(write_scenes(tmp_path_factory.mktemp("scenes") / "scenes", num_scenes=12))
    torch.manual_seed(0)
    network = ProposalNetwork(NetworkSettings.from_config(RPN), RPN.weights)
    positions = scenes.split("train")
    cached = cache_maps(network, scenes.items, positions, CacheSettings.from_config(RPN))
    settings = SceneBatchSettings.from_config(RPN)
    return frozen_copy(network), SceneBatches(scenes, positions, settings, cached)


def batches_of(made: Made, **changes: int) -> BoxBatches:
    network, scenes = made
    config = RPN.model_copy(update=changes)
    return BoxBatches(scenes, network, BoxBatchSettings.from_config(config))


def test_every_four_scenes_come_with_a_drawn_photo_that_shows_no_product(made: Made) -> None:
    batches = batches_of(made)
    drawn = []
    for number in range(NUM_INTERIORS + 1):
        batch = batches(number)
        *scenes, interior = batch.item_ids
        assert len(scenes) == 4
        assert scenes == made[1].item_ids(number)
        drawn.append(interior)
        assert len(batch.features) == len(batch.overlaps) == len(batch.shifts)
    assert len(set(drawn)) == NUM_INTERIORS, "each in turn"
    assert drawn[0] == drawn[-1]
    assert batches_of(made, num_interiors=0)(0).item_ids == made[1].item_ids(0)
    without = batches_of(made, num_interiors=0)(0)
    added = batches(0).overlaps[len(without.overlaps) :]
    assert len(added) > 0
    assert added.sum() == 0
    assert without.overlaps.sum() > 0


def test_a_batch_is_the_same_whether_its_features_were_kept_or_not(made: Made) -> None:
    kept, fresh = batches_of(made), batches_of(made, feature_cache_mib=0)
    kept(1)
    for batch in (kept(1), fresh(1)):
        torch.testing.assert_close(batch.features, batches_of(made)(1).features)
        torch.testing.assert_close(batch.shifts, batches_of(made)(1).shifts)


def test_the_head_takes_its_scale_from_the_first_batches(made: Made) -> None:
    batches = batches_of(made)
    examples = list(batches.examples(2))
    assert len(examples) == 2
    torch.testing.assert_close(examples[1][0], batches(1).features)
    head = frozen_copy(made[0]).box_head
    head.fit(batches.examples(2), min_products=1)
    features = torch.cat([features for features, _ in examples]).float()
    torch.testing.assert_close(head.mean, features.mean(dim=0), rtol=1e-3, atol=1e-3)
    scaled = (features - head.mean) / head.deviation
    assert 0.5 < float(scaled.std()) < 1.1


def test_the_box_around_two_near_products_is_an_example_that_shows_neither(made: Made) -> None:
    left, right, far = [0.0, 0, 30, 50], [34.0, 5, 62, 50], [200.0, 200, 230, 250]
    pairs = around_pairs(torch.tensor([left, far, right]))
    assert pairs.tolist() == [[0, 0, 62, 50]]
    overlaps, _ = targets(pairs, torch.tensor([left, right]), made[0].box_head.coder)
    assert overlaps.tolist() == [0]
    for few in ([], [left]):
        assert around_pairs(torch.tensor(few).reshape(-1, 4)).shape == (0, 4)

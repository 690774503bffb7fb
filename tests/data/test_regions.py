"""Region features in shards, positions, and the view of one instance."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from product1m.artifacts.folder import Artifact, open_artifact, write_artifact
from product1m.config import FeatureExtractionConfig
from product1m.data.items import ItemWriter
from product1m.data.regions import (
    FeatureSet,
    Regions,
    RegionWriter,
    write_instances,
)

FRAME = np.array([0, 0, 100, 50], np.float32)


def regions(seed: int, count: int, width: int = 4) -> Regions:
    random = np.random.default_rng(seed)
    corners = np.sort(random.uniform(0, 50, (count - 1, 2, 2)), axis=1).reshape(-1, 4)
    return Regions(
        random.normal(size=(count, width)).astype(np.float32),
        np.concatenate([FRAME[None], corners]).astype(np.float32),
        np.concatenate([[1], np.sort(random.uniform(size=count - 1))[::-1]]).astype(np.float32),
    )


def write(folder: Path, sets: list[Regions], shard_mib: int = 256) -> Artifact:
    config = FeatureExtractionConfig()
    with write_artifact(folder, "feature_extraction", config, part="train") as writer:
        with ItemWriter(writer.folder) as items, RegionWriter(writer.folder, shard_mib) as out:
            for number, regions in enumerate(sets):
                items.add(f"id-{number}", b"photo", (100, 50), caption="")
                out.add(regions)
        writer.details["feature_dim"] = sets[0].features.shape[1]
    return open_artifact(folder, "feature_extraction", "train")


def assert_equal(found: Regions, expected: Regions) -> None:
    np.testing.assert_array_equal(found.features, expected.features.astype(np.float16))
    assert found.features.dtype == np.float16
    np.testing.assert_array_equal(found.boxes_xyxy, expected.boxes_xyxy)
    np.testing.assert_array_equal(found.scores, expected.scores)


def test_regions_are_read_back_in_any_order(tmp_path: Path) -> None:
    sets = [regions(seed, count) for seed, count in enumerate([3, 1, 7, 2])]
    features = FeatureSet(write(tmp_path / "train", sets))
    assert len(features) == 4
    assert features.feature_dim == 4
    for number in (2, 0, 3, 1):
        assert_equal(features.regions(number), sets[number])


def test_a_full_shard_is_followed_by_another(tmp_path: Path) -> None:
    sets = [regions(seed, 5, width=60_000) for seed in range(4)]  # 0.57 MiB each in float16
    artifact = write(tmp_path / "train", sets, shard_mib=1)
    assert len(artifact.files("regions-*.safetensors")) == 4
    features = FeatureSet(artifact)
    for number, expected in enumerate(sets):
        assert_equal(features.regions(number), expected)


def test_an_error_while_writing_leaves_no_table(tmp_path: Path) -> None:
    def write_half() -> None:
        with RegionWriter(tmp_path) as out:
            out.add(regions(0, 3))
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        write_half()
    assert list(tmp_path.iterdir()) == []


def test_positions_are_relative_to_the_whole_photo() -> None:
    boxes = np.array([[0, 0, 200, 100], [50, 25, 100, 75], [-20, 0, 100, 120]], np.float32)
    regions = Regions(np.zeros((3, 4), np.float32), boxes, np.ones(3, np.float32))
    expected = np.array([[0, 0, 1, 1, 1], [0.25, 0.25, 0.5, 0.75, 0.125], [0, 0, 0.5, 1, 0.5]])
    np.testing.assert_allclose(regions.positions(), expected)


def test_an_instance_is_a_photo_of_its_own() -> None:
    boxes = np.array(
        [
            [0, 0, 100, 100],  # the photo
            [22, 22, 38, 38],  # inside the instance
            [30, 30, 50, 40],  # half inside
            [60, 60, 90, 90],  # elsewhere
            [20, 30, 30, 42],  # 100 / 120 of it inside
        ],
        np.float32,
    )
    photo = Regions(np.arange(20, dtype=np.float32).reshape(5, 4), boxes, np.full(5, 0.5, "f4"))
    box, feature = np.array([20, 20, 40, 40], np.float32), np.full(4, 99, np.float32)
    instance = photo.instance(box, feature)
    np.testing.assert_array_equal(instance.boxes_xyxy, [box, boxes[1], boxes[4]])
    np.testing.assert_array_equal(
        instance.features, [feature, photo.features[1], photo.features[4]]
    )
    np.testing.assert_array_equal(instance.scores, [1, 0.5, 0.5])
    np.testing.assert_allclose(instance.positions()[1], [0.1, 0.1, 0.9, 0.9, 0.64], atol=1e-6)


def test_pasted_products_come_back_with_their_vectors(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "scene": np.array([0, 0], np.int64),
            "source_id": ["a", "b"],
            **{key: np.array([1, 2], np.float32) for key in ("x1", "y1", "x2", "y2", "visible")},
        }
    )
    vectors = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float16)
    config = FeatureExtractionConfig()
    with write_artifact(tmp_path / "s", "feature_extraction", config, part="scenes") as writer:
        with ItemWriter(writer.folder) as items, RegionWriter(writer.folder) as out:
            items.add("scene-000000", b"photo", (100, 50), caption="")
            out.add(regions(0, 3))
        write_instances(writer.folder, frame, vectors)
    found, features = FeatureSet(open_artifact(tmp_path / "s", "feature_extraction")).instances()
    pd.testing.assert_frame_equal(found, frame, check_dtype=False)
    np.testing.assert_array_equal(features, vectors)

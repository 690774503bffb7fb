"""Feature extraction: one row an item in the items' order, float16, instances, damaged photos."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from product1m.artifacts.folder import Artifact, open_artifact, write_artifact
from product1m.config import BackgroundSynthesisConfig, FeatureExtractionConfig, IngestionConfig
from product1m.data.boxes import BoxTable
from product1m.data.items import ItemTable, ItemWriter
from product1m.data.photos import encode_jpeg
from product1m.data.regions import FeatureSet
from product1m.detection.extraction import RegionSettings, extract_regions
from product1m.detection.proposals import load_rpn
from product1m.detection.untrained_boxes import grabcut_box
from product1m.errors import ArtifactError, DatasetError
from product1m.steps import feature_extraction
from product1m.synthesis.grabcut import GrabCutSettings
from tests.support.worlds.tiny_rpn import write_rpn
from tests.support.worlds.tiny_scenes import SYNTHESIS, blocks, write_photos, write_scenes

CONFIG = FeatureExtractionConfig(
    precision="float32", batch_size=2, num_workers=2, canonical_side_px=48
)
SETTINGS = RegionSettings.from_config(CONFIG, None)
SIZES_PX = [(96, 96), (160, 80), (96, 96), (80, 120)] * 5


@pytest.fixture(scope="module")
def rpn(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write_rpn(tmp_path_factory.mktemp("rpn") / "rpn")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write_photos(tmp_path_factory.mktemp("photos") / "gallery", SIZES_PX, "gallery")


@pytest.fixture(scope="module")
def features(rpn: Artifact, photos: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("features") / "gallery"
    feature_extraction.run(photos.folder, rpn.folder, folder, CONFIG)
    return folder


def test_rows_follow_the_items_and_equal_what_a_served_photo_gets(
    rpn: Artifact, photos: Artifact, features: Path
) -> None:
    stored = FeatureSet(open_artifact(features, "feature_extraction", "gallery"))
    items, network = ItemTable(photos), load_rpn(rpn)
    assert stored.rows["id"].tolist() == [f"item-{number}" for number in range(len(SIZES_PX))]
    assert stored.rows["caption"].tolist() == items.rows["caption"].tolist()
    for position in range(len(items)):
        ((served, _),) = extract_regions(network, [items.photo(position)], SETTINGS)
        regions = stored.regions(position)
        assert regions.boxes_xyxy[0].tolist() == [0, 0, *SIZES_PX[position]]
        np.testing.assert_allclose(regions.boxes_xyxy, served.boxes_xyxy, atol=1e-2)
        np.testing.assert_allclose(regions.scores, served.scores, atol=1e-4)
        np.testing.assert_allclose(
            np.float32(regions.features), np.float32(served.features), rtol=2e-3, atol=2e-3
        )


def test_the_manifest_says_what_a_reader_must_know(rpn: Artifact, features: Path) -> None:
    artifact = open_artifact(features, "feature_extraction", "gallery")
    details = artifact.manifest.details
    assert details["feature_dim"] == FeatureSet(artifact).feature_dim == 320
    assert details["rpn"] == rpn.digest
    assert (details["short_side_px"], details["long_side_px"]) == (96, 192)
    assert artifact.manifest.metrics["num_items"] == len(SIZES_PX)
    assert 10 <= artifact.manifest.metrics["regions_per_item"] <= 36
    shard = FeatureSet(artifact).regions(0)
    assert shard.features.dtype == np.float16
    assert shard.boxes_xyxy.dtype == np.float32


def test_the_same_photos_give_the_same_digest(
    rpn: Artifact, photos: Artifact, features: Path, tmp_path: Path
) -> None:
    again = CONFIG.model_copy(update={"num_workers": 0})
    feature_extraction.run(photos.folder, rpn.folder, tmp_path / "again", again)
    first, second = (
        open_artifact(folder, "feature_extraction") for folder in (features, tmp_path / "again")
    )
    assert first.digest == second.digest


def test_grabcut_proposals_use_the_settings_of_the_scenes(tmp_path: Path) -> None:
    synthesis = SYNTHESIS.model_copy(update={"grabcut_side_px": 16, "grabcut_margin": 0.1})
    scenes = write_scenes(tmp_path / "scenes", 4, synthesis)
    rpn = write_rpn(tmp_path / "rpn", scenes)
    config = CONFIG.model_copy(update={"proposals": "grabcut"})
    feature_extraction.run(scenes.folder, rpn.folder, tmp_path / "features", config)
    features = FeatureSet(open_artifact(tmp_path / "features", "feature_extraction"))
    photos = ItemTable(scenes)
    for number in range(4):
        box = features.regions(number).boxes_xyxy[1:]
        expected = grabcut_box(photos.photo(number), GrabCutSettings.from_config(synthesis))
        np.testing.assert_allclose(box, expected, atol=1e-3)
        others = GrabCutSettings.from_config(BackgroundSynthesisConfig())
        assert not np.allclose(box, grabcut_box(photos.photo(number), others), atol=1)


def test_scenes_keep_a_vector_for_every_pasted_product(rpn: Artifact, tmp_path: Path) -> None:
    scenes = write_scenes(tmp_path / "scenes", num_scenes=6)
    feature_extraction.run(scenes.folder, rpn.folder, tmp_path / "features", CONFIG)
    artifact = open_artifact(tmp_path / "features", "feature_extraction", "scenes")
    table, vectors = FeatureSet(artifact).instances()
    written = pq.read_table(scenes.file("instances.parquet")).to_pandas()
    assert sorted(table["source_id"]) == sorted(written["source_id"])
    assert vectors.dtype == np.float16
    network, items = load_rpn(rpn), ItemTable(scenes)
    boxes = table[["x1", "y1", "x2", "y2"]].to_numpy(np.float32)
    for scene, source, box, vector in zip(
        table["scene"].tolist(), table["source_id"], boxes, vectors, strict=True
    ):
        assert source.startswith(f"p{scene}-")
        ((_, expected),) = extract_regions(network, [items.photo(scene)], SETTINGS, [box[None]])
        np.testing.assert_allclose(
            np.float32(vector), np.float32(expected[0]), rtol=2e-3, atol=2e-3
        )


def test_queries_whose_boxes_are_known_keep_a_vector_for_every_box(
    rpn: Artifact, tmp_path: Path
) -> None:
    boxes = BoxTable()
    with (
        write_artifact(tmp_path / "queries", "ingestion", IngestionConfig(), part="queries") as w,
        ItemWriter(w.folder) as items,
    ):
        for number in range(3):
            photo = blocks(np.random.default_rng(number), 96, 96)
            items.add(f"q{number}", encode_jpeg(photo), (96, 96), caption="t", labels=["a"])
        boxes.add(2, [(4, 8, 60, 90), (50, 0, 96, 96)], (96, 96), 1.0)
        boxes.write(w.folder)
    queries = tmp_path / "queries"
    feature_extraction.run(queries, rpn.folder, tmp_path / "features", CONFIG)
    features = FeatureSet(open_artifact(tmp_path / "features", "feature_extraction", "queries"))
    assert features.has_instances
    table, vectors = features.instances()
    assert table[["scene", "x1", "y2"]].to_numpy().tolist() == [[2, 4, 90], [2, 50, 96]]
    photo = ItemTable(open_artifact(queries, "ingestion")).photo(2)
    given = table[["x1", "y1", "x2", "y2"]].to_numpy(np.float32)
    ((_, expected),) = extract_regions(load_rpn(rpn), [photo], SETTINGS, [given])
    np.testing.assert_allclose(np.float32(vectors), np.float32(expected), rtol=2e-3, atol=2e-3)


def test_a_photo_that_does_not_decode_stops_the_step_with_its_id(
    rpn: Artifact, tmp_path: Path
) -> None:
    with (
        write_artifact(tmp_path / "photos", "ingestion", IngestionConfig(), part="train") as writer,
        ItemWriter(writer.folder) as items,
    ):
        items.add("broken-7", b"\xff\xd8 no photo", (10, 10), caption="a title")
    with pytest.raises(DatasetError, match="item broken-7: not a photo that can be decoded"):
        feature_extraction.run(tmp_path / "photos", rpn.folder, tmp_path / "features", CONFIG)
    assert not (tmp_path / "features").exists()


def test_an_artifact_without_items_is_refused(rpn: Artifact, tmp_path: Path) -> None:
    empty = write_photos(tmp_path / "photos", [])
    with pytest.raises(DatasetError, match="no items to extract features from"):
        feature_extraction.run(empty.folder, rpn.folder, tmp_path / "features", CONFIG)


def test_something_that_holds_no_photos_is_refused(rpn: Artifact, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="expected an artifact of ingestion"):
        feature_extraction.run(rpn.folder, rpn.folder, tmp_path / "features", CONFIG)


def test_packs_of_gallery_and_queries_are_read_once(rpn: Artifact, tmp_path: Path) -> None:
    packs = write_photos(tmp_path / "packs", SIZES_PX[:3], "gallery")
    train = write_photos(tmp_path / "train", SIZES_PX[:3], "train")
    config = CONFIG.model_copy(
        update={
            "ocr": "boxes",
            "ocr_photo_side_px": 64,
            "ocr_cache": str(tmp_path / "lines"),
        }
    )

    def read(photos: Artifact, name: str) -> tuple[Artifact, list[float]]:
        metrics = feature_extraction.run(photos.folder, rpn.folder, tmp_path / name, config)
        counts = [metrics.get(key, -1) for key in ("photos_read", "photos_read_before")]
        return open_artifact(tmp_path / name, "feature_extraction"), counts

    (first, counts), (second, counts_again) = read(packs, "first"), read(packs, "second")
    assert (counts, counts_again) == ([3, 0], [0, 3])
    assert first.digest == second.digest
    assert first.manifest.details["ocr"]["license"] == "Apache-2.0"
    assert FeatureSet(first).has_lines
    assert not len(FeatureSet(first).regions(2).lines)  # blocks of color
    unread, counts = read(train, "third")
    assert counts == [-1, -1]
    assert not FeatureSet(unread).has_lines

"""Background synthesis end to end, on drawn products with known groups and outlines."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from pycocotools import mask as coco_mask

from product1m.artifacts.folder import open_artifact, write_artifact
from product1m.artifacts.work import work_root
from product1m.catalogue.erasure import holders
from product1m.config import BackgroundSynthesisConfig, IngestionConfig, parse_config
from product1m.data.items import ItemTable, ItemWriter
from product1m.data.photos import encode_jpeg
from product1m.data.regions import INSTANCES
from product1m.detection.scene_batches import Scenes
from product1m.errors import ArtifactError, ConfigError, DatasetError, StorageError
from product1m.steps import background_synthesis
from product1m.synthesis import compose
from product1m.synthesis import cutouts as candidates
from product1m.synthesis.scene_titles import units
from tests.support.worlds.drawn_products import NUM_PRODUCTS, captions, draw_pair, draw_product

CONFIG = BackgroundSynthesisConfig(
    num_scenes=14,
    held_out_share=0.3,
    scene_width_px=120,
    scene_height_px=96,
    grabcut_side_px=80,
    max_cutouts=60,
    empty_share=0,
    single_share=0,
    num_workers=1,
)


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty products with two photos each, a set by title, a pair, and one photo twice."""
    folder = tmp_path_factory.mktemp("products") / "train"
    with (
        write_artifact(folder, "ingestion", IngestionConfig(), part="train") as writer,
        ItemWriter(writer.folder) as items,
    ):
        size_px = (120, 120)
        for number, caption in enumerate(captions()):
            for variant in range(2):
                encoded = encode_jpeg(draw_product(number, variant))
                item_id = f"p{number}-{variant}"
                items.add(item_id, encoded, size_px, caption=caption, group=number)
        first = encode_jpeg(draw_product(0))
        items.add("set", encode_jpeg(draw_product(90)), size_px, caption="AURA 礼盒", group=90)
        items.add("pair", encode_jpeg(draw_pair()), size_px, caption="AURA 玫瑰 海盐", group=91)
        items.add("again", first, size_px, caption="代购 AURA", group=0)
    return folder


@pytest.fixture(scope="module")
def backgrounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photos, below folders, and a damaged one."""
    folder = tmp_path_factory.mktemp("rooms")
    (folder / "a").mkdir()
    for number, name in enumerate(("a/kitchen.jpg", "bath.PNG")):
        photo = np.random.default_rng(number).integers(0, 256, (90, 150, 3), np.uint8)
        cv2.imwrite(str(folder / name), photo)
    whole = (folder / "a/kitchen.jpg").read_bytes()
    (folder / "cut_short.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "notes.txt").write_text("no photo")
    return folder


@pytest.fixture(scope="module")
def scenes(products: Path, backgrounds: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "scenes"
    background_synthesis.run(products, str(backgrounds), folder, CONFIG)
    return folder


def coco_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "scenes-00000.coco.json").read_text("utf-8"))
    return content


def instances_of(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / INSTANCES)


def varied(**changes: object) -> BackgroundSynthesisConfig:
    return BackgroundSynthesisConfig.model_validate(CONFIG.model_dump() | changes)


def test_every_scene_is_a_photo_with_two_to_five_products(scenes: Path) -> None:
    items = ItemTable(open_artifact(scenes, "background_synthesis", "scenes"))
    assert [items.photo(number).shape for number in range(14)] == [(96, 120, 3)] * 14
    assert items.rows["id"].tolist() == [f"scene-{number:06d}" for number in range(14)]
    assert items.rows["split"].tolist() == ["train"] * 10 + ["held_out"] * 4
    counts = instances_of(scenes).groupby("scene").size()
    assert counts.index.tolist() == list(range(14))
    assert counts.between(2, 5).all()


def test_scenes_without_products_are_photos_without_rows(
    products: Path, backgrounds: Path, tmp_path: Path
) -> None:
    config = varied(num_scenes=10, empty_share=0.5, single_share=0.5)
    background_synthesis.run(products, str(backgrounds), tmp_path / "scenes", config)
    artifact = open_artifact(tmp_path / "scenes", "background_synthesis", "scenes")
    counts = Counter(instances_of(tmp_path / "scenes")["scene"].tolist())
    assert set(counts.values()) == {1}
    assert 0 < len(counts) < 10
    boxes = Scenes(artifact).boxes_xyxy
    assert [len(own) for own in boxes] == [counts[number] for number in range(10)]
    assert len(coco_of(tmp_path / "scenes")["images"]) == 10


def test_annotations_are_valid_coco(scenes: Path) -> None:
    coco = coco_of(scenes)
    assert [image["id"] for image in coco["images"]] == list(range(14))
    assert coco["images"][3]["file_name"] == "scene-000003.jpg"
    ids = [annotation["id"] for annotation in coco["annotations"]]
    assert len(set(ids)) == len(ids)
    assert min(ids) > 0
    known = {category["id"] for category in coco["categories"]}
    for annotation in coco["annotations"]:
        image = coco["images"][annotation["image_id"]]
        assert annotation["category_id"] in known
        assert annotation["iscrowd"] == 0
        assert annotation["segmentation"]["size"] == [image["height"], image["width"]]


def test_boxes_areas_and_masks_agree_in_both_tables(scenes: Path) -> None:
    rows = instances_of(scenes).to_dict("records")
    annotations = coco_of(scenes)["annotations"]
    covered = np.zeros((14, 96, 120), int)
    for row, annotation in zip(rows, annotations, strict=True):
        mask = coco_mask.decode(annotation["segmentation"]).astype(bool)
        y, x = np.nonzero(mask)
        left, top, width, height = annotation["bbox"]
        assert (left, top) == (x.min(), y.min())
        assert (left + width, top + height) == (x.max() + 1, y.max() + 1)
        assert annotation["area"] == len(x)
        assert [row[name] for name in ("x1", "y1", "x2", "y2")] == [
            left,
            top,
            left + width,
            top + height,
        ]
        assert (row["scene"], row["source_id"]) == (
            annotation["image_id"],
            annotation["source_id"],
        )
        assert row["visible"] >= 1 - CONFIG.max_occlusion - 1e-6
        covered[row["scene"]] += mask
    assert covered.max() == 1  # a pixel shows one product


def test_held_out_scenes_share_no_source_with_the_others(products: Path, scenes: Path) -> None:
    rows = ItemTable(open_artifact(products, "ingestion", "train")).rows
    group_of = dict(zip(rows["id"], rows["group"], strict=True))
    instances = instances_of(scenes)
    is_train = instances["scene"] < 10
    train = {group_of[key] for key in instances.loc[is_train, "source_id"]}
    held_out = {group_of[key] for key in instances.loc[~is_train, "source_id"]}
    assert train
    assert held_out
    assert not train & held_out


def test_source_photos_are_kept_where_a_training_asks_for_them(
    products: Path, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"keep_sources": True, "num_scenes": 6})
    background_synthesis.run(products, "", tmp_path / "scenes", config)
    scenes = Scenes(open_artifact(tmp_path / "scenes", "background_synthesis"))
    train = ItemTable(open_artifact(products, "ingestion"))
    rows = {item: row for row, item in enumerate(train.rows["id"].tolist())}
    kept = scenes.source_photos()
    assert {source for own in scenes.sources for source in own} <= set(kept.rows["id"])
    for row, item in enumerate(kept.rows["id"].tolist()):
        assert kept.encoded(row) == train.encoded(rows[item])
        assert kept.rows["group"].iloc[row] == train.rows["group"].iloc[rows[item]]
    (holder,) = holders([str(tmp_path)], [str(kept.rows["sha256"].iloc[0])])  # for an erasure
    assert holder.startswith(str(tmp_path / "scenes"))


def test_titles_fit_and_tell_of_their_products_only(products: Path, scenes: Path) -> None:
    rows = ItemTable(open_artifact(products, "ingestion", "train")).rows
    caption_of = dict(zip(rows["id"], rows["caption"], strict=True))
    titles = ItemTable(open_artifact(scenes, "background_synthesis", "scenes")).rows["caption"]
    for scene, group in instances_of(scenes).groupby("scene"):
        title, sources = titles[scene], {caption_of[key] for key in group["source_id"]}
        assert 0 < len(title) <= CONFIG.max_title_chars
        assert title not in sources
        source_units = {unit for caption in sources for unit in units(caption)}
        assert set(units(title)) <= source_units


def test_metrics_count_what_was_cut_and_why_not(scenes: Path) -> None:
    metrics = open_artifact(scenes, "background_synthesis", "scenes").manifest.metrics
    num_items = 2 * NUM_PRODUCTS + 3
    assert metrics["items"] == num_items
    assert metrics["items/of_sets"] == 1
    assert metrics["cutouts/tried"] == num_items - 2  # the set is out, one photo is there twice
    assert metrics["cutouts/rejected/fragmented"] == 1  # the pair
    rejected = sum(value for name, value in metrics.items() if "/rejected/" in name)
    assert metrics["cutouts/accepted"] == metrics["cutouts/tried"] - rejected
    assert metrics["cutouts/accepted"] >= 0.9 * 2 * NUM_PRODUCTS
    share = (num_items - 1) / num_items * metrics["cutouts/accepted"] / metrics["cutouts/tried"]
    assert metrics["items/single_product_share"] == pytest.approx(share)
    assert metrics["sources/train"] + metrics["sources/held_out"] == metrics["cutouts/accepted"]


def test_a_damaged_background_is_skipped_and_counted(scenes: Path) -> None:
    metrics = open_artifact(scenes, "background_synthesis", "scenes").manifest.metrics
    assert metrics["backgrounds/damaged"] == 1
    assert metrics["backgrounds/used"] == 2


def test_pictures_lie_in_the_artifact(scenes: Path) -> None:
    for name in ("scenes.png", "cutouts.png"):
        picture = cv2.imread(str(scenes / name))
        assert picture is not None
        assert min(picture.shape[:2]) > 400
    assert not list(scenes.parent.glob(".work/*"))


def test_scenes_do_not_depend_on_the_number_of_processes(
    products: Path, backgrounds: Path, scenes: Path, tmp_path: Path
) -> None:
    config = varied(num_workers=2)
    background_synthesis.run(products, str(backgrounds), tmp_path / "scenes", config)
    again = open_artifact(tmp_path / "scenes", "background_synthesis")
    assert again.digest == open_artifact(scenes, "background_synthesis").digest


def test_another_seed_gives_other_scenes(products: Path, scenes: Path, tmp_path: Path) -> None:
    background_synthesis.run(products, "", tmp_path / "a", varied(seed=1, num_scenes=5))
    background_synthesis.run(products, "", tmp_path / "b", varied(seed=2, num_scenes=5))
    first, second = (open_artifact(tmp_path / name, "background_synthesis") for name in "ab")
    assert first.digest != second.digest
    assert first.manifest.metrics["backgrounds/used"] == 0  # drawn ones


def run_killed(products: Path, backgrounds: Path, target: Path) -> None:
    """Run the step until its first scene."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            compose, "encode_jpeg", lambda photo: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            background_synthesis.run(products, str(backgrounds), target, CONFIG)


@pytest.mark.parametrize("damaged", ["*.png", "0*.json"])
def test_what_was_damaged_in_the_work_folder_is_cut_again(
    products: Path, backgrounds: Path, scenes: Path, tmp_path: Path, damaged: str
) -> None:
    target = tmp_path / "scenes"
    run_killed(products, backgrounds, target)
    path, *_ = sorted(work_root(target).rglob(damaged))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x80
    path.write_bytes(content)
    background_synthesis.run(products, str(backgrounds), target, CONFIG)
    digests = {open_artifact(path, "background_synthesis").digest for path in (target, scenes)}
    assert len(digests) == 1


def test_a_killed_run_goes_on_with_the_cutouts_it_has(
    products: Path,
    backgrounds: Path,
    scenes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = tmp_path / "scenes"
    run_killed(products, backgrounds, target)
    assert not target.exists()
    cut_again: list[object] = []
    monkeypatch.setattr(candidates, "cut_out", lambda *arguments: cut_again.append(arguments))
    background_synthesis.run(products, str(backgrounds), target, CONFIG)
    assert not cut_again
    digests = {open_artifact(path, "background_synthesis").digest for path in (target, scenes)}
    assert len(digests) == 1


def test_all_backgrounds_damaged_stops_the_step_with_a_name(products: Path, tmp_path: Path) -> None:
    (tmp_path / "rooms").mkdir()
    (tmp_path / "rooms" / "empty.jpg").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"rooms.*empty\.jpg"):
        background_synthesis.run(products, str(tmp_path / "rooms"), tmp_path / "out", CONFIG)
    assert not (tmp_path / "out").exists()


def test_too_many_damaged_backgrounds_stop_the_step(
    products: Path, backgrounds: Path, tmp_path: Path
) -> None:
    strict = varied(max_damaged_backgrounds=0.1)
    with pytest.raises(DatasetError, match=r"1 of 3 background photos.*max_damaged_backgrounds"):
        background_synthesis.run(products, str(backgrounds), tmp_path / "out", strict)


@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        ("{tmp}/nowhere", StorageError, "no such folder"),
        ("ftp://host/rooms", StorageError, "expected a local folder or s3://BUCKET/PREFIX"),
        ("{tmp}", DatasetError, "expected background photos"),
    ],
)
def test_an_address_without_backgrounds_is_refused_before_any_work(
    products: Path, tmp_path: Path, address: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        background_synthesis.run(products, address.format(tmp=tmp_path), tmp_path / "out", CONFIG)


def test_too_few_cutouts_stop_the_step_and_say_what_to_relax(
    products: Path, tmp_path: Path
) -> None:
    with pytest.raises(DatasetError, match=r"too few.*min_mask_area"):
        background_synthesis.run(products, "", tmp_path / "out", varied(min_mask_area=0.88))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"min_products": 4, "max_products": 3}, "min_products"),
        ({"min_scale": 0.7, "max_scale": 0.3}, "min_scale"),
        ({"min_mask_area": 0.9, "max_mask_area": 0.1}, "min_mask_area"),
    ],
)
def test_bounds_that_cross_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config({"background_synthesis": changes})


def test_a_damaged_photo_of_the_artifact_is_named(products: Path, tmp_path: Path) -> None:
    artifact = open_artifact(products, "ingestion", "train")
    damaged = tmp_path / "train"
    damaged.mkdir()
    for name in ("manifest.json", *artifact.manifest.files):
        (damaged / name).write_bytes((products / name).read_bytes())
    shard = damaged / "images-00000.tar"
    content = bytearray(shard.read_bytes())
    content[900] ^= 255
    shard.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"images-00000\.tar: damaged"):
        background_synthesis.run(damaged, "", tmp_path / "out", CONFIG)

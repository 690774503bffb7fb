"""Background synthesis end to end, on drawn products with known groups and outlines."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from pycocotools import mask as coco_mask

from product1m.artifacts.folder import open_artifact, write_artifact
from product1m.config import BackgroundSynthesisConfig, IngestionConfig, parse_config
from product1m.data.items import ItemTable, ItemWriter
from product1m.data.photos import Photo, encode_jpeg
from product1m.data.regions import INSTANCES
from product1m.errors import ArtifactError, ConfigError, DatasetError, StorageError
from product1m.steps import background_synthesis
from product1m.synthesis import compose
from product1m.synthesis import cutouts as candidates
from product1m.synthesis.coco import write_coco
from product1m.synthesis.cutouts import Candidate, CutAttempt, names_set
from product1m.synthesis.parallel import Workers
from product1m.synthesis.planning import PlanSettings, SourcePool, split_sources
from product1m.synthesis.scene_titles import TitleComposer, longest_shared, units

CONFIG = BackgroundSynthesisConfig(
    num_scenes=14,
    held_out_share=0.3,
    scene_width_px=120,
    scene_height_px=96,
    grabcut_side_px=80,
    max_cutouts=60,
    num_workers=1,
)
BRANDS = ("花露AURA", "青山MONTE")
LINES = ("玫瑰", "海盐", "竹炭", "蜂蜜", "绿茶")
KINDS = ("润肤霜 50ml", "洁面乳 120ml")
NUM_PRODUCTS = len(BRANDS) * len(LINES) * len(KINDS)


def draw_product(number: int, variant: int = 0) -> Photo:
    """A pack on white; another variant shows it elsewhere in the photo."""
    rng = np.random.default_rng(number)
    photo = np.full((120, 120, 3), 255, np.uint8)
    width, height = (int(side) for side in rng.integers(40, 70, 2))
    left, top = 20 + 8 * variant, 15 + 6 * variant
    photo[top : top + height, left : left + width] = rng.integers(0, 160, 3)
    photo[top + 8 : top + 20, left + 5 : left + width - 5] = rng.integers(90, 250, 3)
    return photo


def draw_pair() -> Photo:
    photo = np.full((120, 120, 3), 255, np.uint8)
    photo[30:90, 10:45] = (150, 20, 20)
    photo[30:90, 75:110] = (20, 20, 150)
    return photo


def captions() -> Iterator[str]:
    for brand in BRANDS:
        for line in LINES:
            for kind in KINDS:
                yield f"{brand}{line}系列补水保湿{kind}"


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


def test_titles_fit_and_tell_of_their_products_only(products: Path, scenes: Path) -> None:
    rows = ItemTable(open_artifact(products, "ingestion", "train")).rows
    caption_of = dict(zip(rows["id"], rows["caption"], strict=True))
    titles = ItemTable(open_artifact(scenes, "background_synthesis", "scenes")).rows["caption"]
    for scene, group in instances_of(scenes).groupby("scene"):
        title, sources = titles[scene], {caption_of[key] for key in group["source_id"]}
        assert 0 < len(title) <= CONFIG.max_title_chars
        assert title not in sources
        told = {unit for caption in sources for unit in units(caption)}
        assert set(units(title)) <= told


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
    assert not list((scenes.parent / ".work").iterdir())


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


def test_a_killed_run_goes_on_with_the_cutouts_it_has(
    products: Path,
    backgrounds: Path,
    scenes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = tmp_path / "scenes"
    with monkeypatch.context() as patch:
        patch.setattr(
            compose, "encode_jpeg", lambda photo: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            background_synthesis.run(products, str(backgrounds), target, CONFIG)
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


def test_a_killed_process_is_an_error_that_says_what_to_do() -> None:
    with (
        Workers(2) as workers,
        pytest.raises(DatasetError, match=r"was killed.*num_workers"),
    ):
        list(workers.map(os._exit, [1]))


def test_every_shard_has_annotations_of_its_own(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (600, 600, 3), np.uint8)
    encoded = encode_jpeg(noise)  # two of them exceed a MiB
    with ItemWriter(tmp_path, "scenes", shard_mib=1) as items:
        for number in range(5):
            items.add(f"scene-{number:06d}", encoded, (600, 600), caption="")
    lines = [json.dumps([{"source_id": f"{n}-{k}"} for k in range(n)]) for n in range(5)]
    (tmp_path / "annotations").write_text("\n".join(lines) + "\n")
    write_coco(tmp_path, tmp_path / "annotations")
    shards = pd.read_parquet(tmp_path / "items.parquet")["shard"].tolist()
    assert len(set(shards)) > 1
    ids = []
    for shard in sorted(set(shards)):
        content = json.loads((tmp_path / shard).with_suffix(".coco.json").read_text("utf-8"))
        scenes = [number for number in range(5) if shards[number] == shard]
        assert [image["id"] for image in content["images"]] == scenes
        expected = [(n, f"{n}-{k}") for n in scenes for k in range(n)]
        found = [(a["image_id"], a["source_id"]) for a in content["annotations"]]
        assert found == expected
        ids += [annotation["id"] for annotation in content["annotations"]]
    assert ids == list(range(1, 11))


def source(number: int, caption: str, group: int) -> CutAttempt:
    return CutAttempt(Candidate(number, f"s{number}", caption, group, "", 0, 0, ""), "", Path())


def planned(**changes: object) -> PlanSettings:
    return PlanSettings.from_config(varied(**changes))


def all_sources() -> list[CutAttempt]:
    return [source(number, caption, number) for number, caption in enumerate(captions())]


def brand_of(attempt: CutAttempt) -> str:
    return attempt.candidate.caption[:2]


def test_most_scenes_show_one_brand_where_titles_share_words() -> None:
    sources = [s for repeat in range(3) for s in all_sources()]
    alike = SourcePool(sources, planned(shared_words_share=1, repeat_share=0))
    mixed = SourcePool(sources, planned(shared_words_share=0, repeat_share=0))
    shares = []
    for pool in (alike, mixed):
        drawn = [pool.draw(np.random.default_rng(seed)) for seed in range(100)]
        shares.append(np.mean([len({brand_of(s) for s in scene}) == 1 for scene in drawn]))
    assert shares[0] > 0.8
    assert shares[1] < 0.5


def test_a_product_is_shown_twice_only_where_repeats_are_asked_for() -> None:
    for share in (0.0, 1.0):
        pool = SourcePool(all_sources(), planned(repeat_share=share))
        for seed in range(50):
            groups = [s.candidate.group for s in pool.draw(np.random.default_rng(seed))]
            assert 2 <= len(groups) <= 5
            assert len(groups) - len(set(groups)) == share


def test_one_source_alone_still_fills_a_scene() -> None:
    pool = SourcePool(all_sources()[:1], planned(min_products=3, max_products=3))
    assert len(pool.draw(np.random.default_rng(0))) == 3


def test_items_without_a_group_are_kept_apart_by_their_captions() -> None:
    sources = [source(number, f"caption {number // 2}", -1) for number in range(40)]
    split = split_sources(sources, planned())
    told = {name: {s.candidate.caption for s in own} for name, own in split.items()}
    assert not told["train"] & told["held_out"]
    assert (
        len(told["held_out"]) == 6
    )  # 4 of 14 scenes are held out, and so are 20 × 4 / 14 captions


def test_a_title_opens_with_what_all_captions_share() -> None:
    own = list(captions())[:6]
    for seed in range(10):
        title = TitleComposer(captions()).compose(own, 34, np.random.default_rng(seed))
        assert len(title) <= 34
        assert longest_shared([units(caption) for caption in own])
        assert "".join(longest_shared([units(caption) for caption in own])) in title.replace(
            " ", ""
        )


def test_a_title_of_latin_captions_keeps_their_words_whole() -> None:
    own = ["Lay's Potato chips, paprika 125g", "Lay's Oven Baked crackers, sea salt 100g"]
    for seed in range(10):
        title = TitleComposer(own).compose(own, 34, np.random.default_rng(seed))
        words = title.split()
        assert set(words) <= set(" ".join(own).replace(",", "").split())
        assert words[0] == "Lay's"
        assert title not in own


def test_titles_are_cut_into_words_that_occur_elsewhere() -> None:
    known = ["补水保湿面霜", "保湿补水乳液", "面霜补水", "乳液保湿", "保湿面霜"]
    pieces = TitleComposer(known).pieces(units("补水保湿面霜"))
    assert ["".join(piece) for piece in pieces] == ["补水", "保湿", "面霜"]


def test_the_shared_run_equals_a_search_through_all_runs() -> None:
    texts = [units(text) for text in ("花露AURA玫瑰面霜", "正品花露AURA海盐", "AURA花露AURA面膜")]
    best = ""
    joined = [" ".join(text) for text in texts]
    for start in range(len(texts[0])):
        for stop in range(start + 1, len(texts[0]) + 1):
            run = " ".join(texts[0][start:stop])
            if all(f" {run} " in f" {text} " for text in joined) and len(run) > len(best):
                best = run
    assert " ".join(longest_shared(texts)) == best == "花 露 AURA"


@pytest.mark.parametrize(
    ("caption", "expected"),
    [("玫瑰礼盒", True), ("Gift SET for her", True), ("护肤两件套", True), ("玫瑰面霜", False)],
)
def test_titles_of_sets_are_known_by_their_words(caption: str, expected: bool) -> None:
    assert names_set(caption, CONFIG.set_words) is expected

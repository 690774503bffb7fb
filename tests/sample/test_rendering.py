"""The sample split's pictures: packs, sisters, photos, backgrounds."""

import statistics
from itertools import groupby
from pathlib import Path

import cv2
import numpy as np
import pytest

from product1m.data.photos import Photo, decode_photo
from product1m.errors import StorageError
from product1m.sample import SampleSizes, make_sample
from product1m.sample.drawn.catalogue import PRODUCTS, Product
from product1m.sample.drawn.packs import Shot, Sprite, render_pack
from product1m.sample.drawn.plan import LISTS, SampleRow, plan_rows
from product1m.sample.drawn.rendering import render_with_boxes
from product1m.sample.drawn.shapes import solid_of

TINY = SampleSizes(train_singles=2, train_sets=1, gallery=2, dev=1, test=2, backgrounds=2)
FRONT = Shot(yaw_deg=0, elevation_deg=4, distance=4, rig=0)


def on_gray(sprite: Sprite, height: int = 360, width: int = 360) -> Photo:
    """The sprite on gray, its base at the bottom."""
    canvas = np.full((height, width, 3), 128.0)
    rows, columns = sprite.pixels.shape[:2]
    top, left = height - rows, (width - columns) // 2
    alpha = sprite.pixels[:, :, 3:] / 255
    spot = canvas[top : top + rows, left : left + columns]
    spot[:] = spot * (1 - alpha) + sprite.pixels[:, :, :3]
    return canvas.clip(0, 255).astype(np.uint8)


def differing_share(first: Product, second: Product) -> float:
    """Share of the first's pixels at which the two packs visibly differ, seen from the front."""
    one, two = (on_gray(render_pack(p, FRONT)).astype(int) for p in (first, second))
    differs = np.abs(one - two).max(axis=2) > 24
    return float(differs.sum() / (np.abs(one - 128).max(axis=2) > 4).sum())


@pytest.fixture(scope="module")
def rows() -> list[SampleRow]:
    planned = plan_rows(SampleSizes(), 0)
    return [row for name in LISTS for row in planned[name]]


def test_sisters_differ_visibly_but_less_than_packs_of_other_brands() -> None:
    keyed = sorted((p for p in PRODUCTS if p.sisters), key=lambda p: (p.brand.name, p.sisters))
    groups = groupby(keyed, key=lambda p: (p.brand.name, p.sisters))
    sisters = [(next(members), next(members)) for _, members in groups]
    assert len(sisters) == 10
    for first, second in sisters:
        assert (first.brand, first.shape) == (second.brand, second.shape)
    bottle, *bottles = [p for p in PRODUCTS if p.shape == "bottle"]
    others = [(bottle, other) for other in bottles if other.brand != bottle.brand]
    shares = [differing_share(*pair) for pair in sisters]
    assert 0.02 < min(shares) < statistics.median(shares) < 0.25
    assert max(shares) < min(differing_share(*pair) for pair in others)


@pytest.mark.parametrize("product", PRODUCTS[::9], ids=lambda product: product.label)
def test_a_pack_is_as_tall_as_its_scale_says(product: Product) -> None:
    level = Shot(yaw_deg=0, elevation_deg=0, distance=8, rig=1)
    sprite = render_pack(product, level)
    height_px = np.flatnonzero(sprite.pixels[:, :, 3].max(axis=1) > 128)
    measured = (height_px[-1] - height_px[0] + 1) / sprite.px_per_cm
    # The front edge of a wide pack is nearer and lower in the picture than its middle.
    wide = 2 * solid_of(product).radius
    assert measured == pytest.approx(product.height_cm, rel=0.05 + 0.1 * wide)


def test_turning_a_pack_turns_its_print() -> None:
    product = next(p for p in PRODUCTS if p.brand.layout == "botanical" and p.shape == "dropper")
    front, back = (
        on_gray(render_pack(product, Shot(yaw, 4, 4, 0)))[200:340, 150:210] for yaw in (0.0, 180.0)
    )
    assert np.abs(front.astype(int) - back).mean() > 25


def test_light_from_another_side_changes_the_bright_side() -> None:
    product = next(p for p in PRODUCTS if p.shape == "bottle")
    left, right = (on_gray(render_pack(product, Shot(0, 4, 4, rig))) for rig in (0, 1))
    bright = [image[150:300, 130:230].mean(axis=(0, 2)) for image in (left, right)]
    assert bright[0][:50].mean() > bright[1][:50].mean()


def test_cartons_are_larger_than_what_they_hold() -> None:
    product = next(p for p in PRODUCTS if p.shape == "jar")
    pack, carton = render_pack(product, FRONT), render_pack(product, FRONT, carton=True)
    areas = [
        (s.pixels[:, :, 3] > 128).sum() / s.px_per_cm**2 for s in (pack, carton)
    ]  # square centimeters
    assert areas[1] > areas[0]


def test_photos_of_one_product_are_all_different(rows: list[SampleRow]) -> None:
    product = rows[0].products[0]
    same = [r for r in rows if r.products == (product,) and r.photo_kind == "single"]
    unique = {row.photo_seed: row for row in same}.values()
    small = [
        cv2.resize(render_with_boxes(row)[0], (32, 32)).astype(int) for row in list(unique)[:6]
    ]
    for at, first in enumerate(small):
        for second in small[at + 1 :]:
            assert np.abs(first - second).mean() > 4


def test_a_photo_shows_what_its_row_says(rows: list[SampleRow]) -> None:
    row = next(r for r in rows if r.photo_kind == "query" and len(set(r.products)) == 2)
    others = [p for p in PRODUCTS if p.brand != row.products[0].brand and p.shape == "bottle"]
    swapped = SampleRow(**{**row.__dict__, "products": (others[0], others[1])})
    assert np.array_equal(render_with_boxes(row)[0], render_with_boxes(row)[0])
    assert not np.array_equal(render_with_boxes(row)[0], render_with_boxes(swapped)[0])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """A tiny sample split and the statistics returned for it."""
    folder = tmp_path_factory.mktemp("sample") / "tiny"
    return folder, make_sample(folder, seed=3, sizes=TINY, num_workers=1)


@pytest.fixture
def tiny(made: tuple[Path, dict[str, float]]) -> Path:
    return made[0]


def test_a_drawn_sample_says_that_it_is_one(tiny: Path) -> None:
    assert "--override-sample" in (tiny / "SAMPLE").read_text("utf-8")


def ids_of(folder: Path) -> list[tuple[str, str]]:
    """(id, first URL) of every line."""
    return [
        (line.split("#####")[0], line.split("#####")[2])
        for path in sorted(folder.glob("*.txt"))
        for line in path.read_bytes().decode().split("\r\n")[:-1]
    ]


def test_every_line_has_a_photo_of_a_fitting_size(tiny: Path) -> None:
    ids = ids_of(tiny)
    assert len(ids) == 2 + 1 + 2 + 1 + 2
    assert {path.stem for path in (tiny / "images").iterdir()} == {item_id for item_id, _ in ids}
    for path in (tiny / "images").iterdir():
        photo = decode_photo(path.read_bytes(), path.name)
        assert 240 <= min(photo.shape[:2]) <= max(photo.shape[:2]) <= 448
        assert photo.std() > 5


def test_backgrounds_are_rendered_and_all_different(tiny: Path) -> None:
    photos = [path.read_bytes() for path in sorted((tiny / "backgrounds").iterdir())]
    assert len(photos) == len(set(photos)) == 2


def test_lines_of_one_address_show_the_same_photo(tiny: Path) -> None:
    by_url: dict[str, set[bytes]] = {}
    for item_id, url in ids_of(tiny):
        by_url.setdefault(url, set()).add((tiny / "images" / f"{item_id}.jpg").read_bytes())
    assert all(len(photos) == 1 for photos in by_url.values())
    assert len(by_url) < len(ids_of(tiny))
    assert len({photo for photos in by_url.values() for photo in photos}) == len(by_url)


def test_the_same_seed_gives_the_same_bytes_with_any_number_of_processes(
    tiny: Path, tmp_path: Path
) -> None:
    make_sample(tmp_path / "again", seed=3, sizes=TINY, num_workers=2)
    files = sorted(path.relative_to(tiny) for path in tiny.rglob("*") if path.is_file())
    again = tmp_path / "again"
    assert files == sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file())
    for name in files:
        assert (tiny / name).read_bytes() == (again / name).read_bytes(), name


def test_the_statistics_returned_are_those_of_the_lists(
    made: tuple[Path, dict[str, float]],
) -> None:
    folder, statistics_of_split = made
    lines = [
        (folder / f"product1m_{name}_ossurl_v2.txt").read_text("utf-8").splitlines()
        for name in ("dev", "test")
    ]
    labels = [line.split("#####")[4].split("#;#") for of_list in lines for line in of_list]
    assert statistics_of_split["train_items"] == 3
    assert statistics_of_split["test_items"] == 2
    assert statistics_of_split["query_labels_per_row"] == pytest.approx(sum(map(len, labels)) / 3)


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(StorageError, match="not an empty folder; remove it or choose another"):
        make_sample(tmp_path, sizes=TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]

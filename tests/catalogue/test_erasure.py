"""Erasing items for good."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from product1m.catalogue.batches import VECTORS_PART, Batches, KnownVectors
from product1m.catalogue.erasure import erase_items, forget_vectors
from product1m.catalogue.new_items import from_dataset, from_photo
from product1m.catalogue.store import CatalogueStore
from product1m.cli.app import app
from product1m.config import CatalogueConfig, IngestionConfig
from product1m.data.intake import normalize_photo
from product1m.data.limits import PhotoLimits
from product1m.errors import DatasetError
from product1m.storage.folder import Folder
from tests.support.worlds.small_catalogue import copy_gallery, refresh
from tests.support.worlds.tiny_world import TinyArtifacts


def files_with(folder: Path, content: bytes) -> list[str]:
    return [
        str(path) for path in folder.rglob("*") if path.is_file() and content in path.read_bytes()
    ]


def test_nothing_that_is_served_holds_an_erased_item_and_it_is_not_taken_in_again(
    made: TinyArtifacts, model: Path, tmp_path: Path
) -> None:
    shop, index, cache = tmp_path / "shop", tmp_path / "index", tmp_path / "cache"
    given = copy_gallery(made, tmp_path / "given")
    store = CatalogueStore(str(shop))
    store.add(from_dataset(str(given)), "Ann")
    raw = given / "images" / "gallery-3.jpg"
    store.add([from_photo(raw, "twin", "an unmistakable title")], "Ann")
    refresh(shop, model, index, cache)
    shutil.copytree(index, tmp_path / "old")
    photo = (shop / store.lines()["twin"]["image"]).read_bytes()
    stored = pq.read_table(index / "gallery.parquet").to_pandas().set_index("id").sha256["twin"]

    result = CliRunner().invoke(
        app,
        ["catalogue", "erase", str(shop), "twin", "--reason", "demand", "--cache", str(cache),
         "--look-in", str(tmp_path / "old"), "--look-in", str(cache), "--look-in", str(shop)],
        catch_exceptions=False,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "2 items erased" in result.output  # the other shows the same photo
    assert f"still contains their photos: {tmp_path / 'old'} (catalogue)" in result.output
    assert "artifacts with their photos: 1, searched: 3" in result.output
    refresh(shop, model, index, cache, max_shrinkage=1.0)
    for folder in (shop, index, cache):
        for content in (photo, b"an unmistakable title"):
            assert files_with(folder, content) == []
    assert files_with(cache, stored.encode()) == []
    assert len(pq.read_table(index / "gallery.parquet")) == 7

    with pytest.raises(DatasetError, match="item again: its photo was erased on request"):
        store.add([from_photo(raw, "again", "another title")], "Ann")
    line = '{"id": "sly", "caption": "sly", "labels": ["sly"], "image": "images/sly.jpg"}\n'
    shutil.copy(raw, shop / "images" / "sly.jpg")
    with (shop / "gallery.jsonl").open("a", encoding="utf-8") as lines:
        lines.write(line)
    store.lines()
    with pytest.raises(DatasetError, match="the photo was erased on request"):
        refresh(shop, model, index, cache)


def test_an_erasure_that_was_killed_is_finished_by_the_next_one(
    made: TinyArtifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CatalogueStore(str(tmp_path / "shop"))
    store.add(from_dataset(str(made.root / "dataset")), "Ann")
    photo = tmp_path / "shop" / store.lines()["gallery-3"]["image"]

    def killed(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store.store, "remove", killed)
    with pytest.raises(KeyboardInterrupt):
        erase_items(store, ["gallery-3"], "Bo", "demand")
    assert photo.is_file()
    assert "gallery-3" not in store.lines()
    erased = erase_items(CatalogueStore(str(tmp_path / "shop")), ["gallery-3"], "Bo", "demand")
    assert photo.stem in erased.photos
    assert not photo.exists()
    assert [path.parent.name for path in (tmp_path / "shop").glob("lists/*")] == ["lists"]
    with pytest.raises(DatasetError, match="no item gallery-4x"):
        erase_items(store, ["gallery-4x"], "Bo", "demand")


def test_photos_are_erased_as_the_pipelines_settings_stored_them(
    made: TinyArtifacts, tmp_path: Path
) -> None:
    shop, photo = tmp_path / "shop", made.root / "dataset" / "images" / "gallery-3.jpg"
    smaller = IngestionConfig(max_photo_side_px=20)
    stored = normalize_photo(photo.read_bytes(), PhotoLimits.from_config(smaller))
    assert max(stored.width, stored.height) == 20
    item = ["--id", "a", "--title", "rose cream", "--photo", str(photo)]

    def product1m(act: str, *arguments: str) -> Result:
        return CliRunner().invoke(app, ["catalogue", act, str(shop), *arguments])

    short = product1m("add", *item, "--set", "ingestion.max_title_bytes=5")
    assert "more than 5 bytes" in short.output
    assert product1m("add", *item).exit_code == 0
    settings = ["--reason", "demand", "--set", "ingestion.max_photo_side_px=20"]
    assert product1m("erase", "a", *settings).exit_code == 0
    digest = hashlib.sha256(stored.encoded).hexdigest()
    assert digest in {path.name for path in (shop / "erased").iterdir()}


def test_an_item_that_is_erased_while_another_adds_it_again_does_not_come_back(
    made: TinyArtifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = (CatalogueStore(str(tmp_path / "shop")) for _ in range(2))
    items = list(from_dataset(str(made.root / "dataset")))
    store.add(items, "Ann")
    publish = store.store.publish

    def erased_meanwhile(name: str, content: bytes) -> bool:
        if name.startswith("images/") and "gallery-3" in other.lines():
            erase_items(other, ["gallery-3"], "Bo", "demand")
        return publish(name, content)

    monkeypatch.setattr(store.store, "publish", erased_meanwhile)
    with pytest.raises(DatasetError, match="item gallery-3: its photo was erased on request"):
        store.add([items[3], items[4]], "Ann")
    assert "gallery-3" not in other.lines()
    assert "gallery-4" in other.lines()
    photos = {path.name for path in (tmp_path / "shop" / "images").iterdir()}
    assert photos == {Path(line["image"]).name for line in other.lines().values()}


def test_forgetting_vectors_that_was_killed_is_finished_by_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("erased", "kept")}
    cache = tmp_path / "cache"
    for row, (name, photo) in enumerate(photos.items()):
        known = KnownVectors(batches_in(cache, tmp_path / name))
        vectors = np.eye(2, 4, dtype=np.float32)[[row]]
        known.add([f"{photo}-title"], vectors, tmp_path / f"{name} batch", CatalogueConfig())
    (next(cache.glob("objects/*")) / ".half.safetensors.partial").write_bytes(
        b"of a killed refresh"
    )
    shutil.copytree(cache, tmp_path / "whole")
    for number in range(1, 4):  # of the removal that is not made: of the table, vectors, manifest
        shutil.rmtree(cache)
        shutil.copytree(tmp_path / "whole", cache)
        with monkeypatch.context() as patch:
            patch.setattr(Folder, "remove", killed_at(number))
            with pytest.raises(KeyboardInterrupt):
                forget_vectors(str(cache), [photos["erased"]])
        left = KnownVectors(batches_in(cache, tmp_path / f"scratch {number}"))
        assert f"{photos['erased']}-title" not in left or number == 1
        assert f"{photos['kept']}-title" in left
        forget_vectors(str(cache), [photos["erased"]])
        kept = [path.name for path in cache.rglob("*") if path.is_file()]
        assert len(kept) == 3, kept  # table, vectors and manifest of the other batch
        assert files_with(cache, photos["kept"].encode())


def batches_in(cache: Path, scratch: Path) -> Batches:
    return Batches(str(cache), "catalogue", VECTORS_PART, scratch)


def killed_at(number: int) -> Callable[[Folder, str], None]:
    """Removes files of a folder, but not the one with this number."""
    remove, calls = Folder.remove, iter(range(1, number + 1))

    def remove_or_be_killed(folder: Folder, name: str) -> None:
        if next(calls) == number:
            raise KeyboardInterrupt
        remove(folder, name)

    return remove_or_be_killed

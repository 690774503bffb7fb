"""The step `catalogue` on a tiny catalogue with a real model."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from product1m.artifacts.folder import open_artifact
from product1m.capture.network import load_capture
from product1m.catalogue.new_items import from_dataset, from_photo
from product1m.catalogue.store import CatalogueStore
from product1m.config import IndexingConfig
from product1m.data.points import open_points
from product1m.data.regions import FeatureSet
from product1m.errors import ArtifactError, CatalogueError, RetrievalError
from product1m.retrieval.building import IndexSettings, build_index
from product1m.retrieval.search import Searcher, SearchSettings
from product1m.serving.catalogue_folder import model_digest, open_catalogue
from product1m.serving.model_folder import ServingConfig
from product1m.serving.thumbnails import Thumbnails
from product1m.steps import catalogue as step
from tests.support.worlds import small_catalogue
from tests.support.worlds.small_catalogue import copy_gallery, refresh, write_photo
from tests.support.worlds.tiny_world import TinyArtifacts

RECALL = "recall@100"


def searcher_of(index: Path, model: Path, made: TinyArtifacts) -> Searcher:
    settings = SearchSettings.from_config(ServingConfig.read(model).evaluation)
    catalogue = open_catalogue(index, model_digest(model), "the model")
    return Searcher.load(catalogue, open_artifact(made.capture, "capture_pretraining"), settings)


@pytest.fixture(scope="module")
def shop(made: TinyArtifacts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalogue of eight items."""
    folder = tmp_path_factory.mktemp("shop")
    given = copy_gallery(made, folder / "given")
    CatalogueStore(str(folder / "shop")).add(from_dataset(str(given)), "Ann")
    return folder


@pytest.fixture(scope="module")
def indexed(shop: Path, model: Path) -> Path:
    """Its first index; never write into it."""
    refresh(shop / "shop", model, shop / "index", shop / "cache")
    return shop / "index"


def test_the_first_index_has_the_vectors_of_the_indexing_step(
    indexed: Path, model: Path, made: TinyArtifacts
) -> None:
    searcher = searcher_of(indexed, model, made)
    features = FeatureSet(open_artifact(made.gallery_features, "feature_extraction", "gallery"))
    config = IndexingConfig.model_validate(open_artifact(made.index, "indexing").manifest.config)
    capture = load_capture(open_artifact(made.capture, "capture_pretraining"))
    expected = build_index(features, capture, IndexSettings.from_config(config))
    assert list(searcher.gallery.ids) == features.rows["id"].tolist()
    own = searcher.gallery.vectors(np.arange(8))
    np.testing.assert_allclose(own, expected.index.reconstruct_n(0, 8), atol=2e-3)
    assert len(Thumbnails(indexed / "thumbnails")) == 8


def test_a_refresh_reads_new_and_changed_photos_alone(
    shop: Path, indexed: Path, model: Path, tmp_path: Path
) -> None:
    shutil.copytree(shop / "shop", tmp_path / "shop")
    shutil.copytree(indexed, tmp_path / "index")
    store, index = CatalogueStore(str(tmp_path / "shop")), tmp_path / "index"
    photos = [write_photo(tmp_path / f"{number}.jpg", number) for number in (31, 32)]
    store.add([from_photo(photos[0], "new", "Lumi mint cream")], "Ann")
    store.add([from_photo(photos[1], "gallery-1", "another pack")], "Ann")
    line = store.lines()["gallery-2"]
    same = tmp_path / "shop" / line["image"]
    store.add([from_photo(same, "gallery-2", "another title")], "Ann")
    store.remove(["gallery-5"], "Ann")
    untouched = tmp_path / "shop" / store.lines()["gallery-7"]["image"]
    untouched.chmod(0)  # whoever reads it fails
    metrics = refresh(tmp_path / "shop", model, index, shop / "cache", max_shrinkage=1.0)
    expected = {"num_items": 8, "added": 1, "removed": 1, "changed": 2, "photos_extracted": 2}
    assert {name: metrics[name] for name in expected} == expected
    assert (metrics[RECALL], metrics["checks_passed"], metrics["rebuilt"]) == (1, 1, 0)
    thumbnails = Thumbnails(index / "thumbnails")
    assert thumbnails.caption("gallery-2") == "another title"
    assert thumbnails.jpeg("gallery-5") is None
    shutil.copytree(indexed, tmp_path / "unchanged")
    again = refresh(shop / "shop", model, tmp_path / "unchanged", shop / "cache")
    assert [again[name] for name in ("added", "removed", "changed", "photos_extracted")] == [0] * 4
    digests = {
        open_artifact(folder, "catalogue").digest for folder in (indexed, tmp_path / "unchanged")
    }
    assert len(digests) == 1  # nothing changed, so nothing new is registered


def test_an_index_that_was_changed_answers_like_one_that_was_built_from_the_list(
    shop: Path, indexed: Path, model: Path, made: TinyArtifacts, tmp_path: Path
) -> None:
    shutil.copytree(shop / "shop", tmp_path / "shop")
    shutil.copytree(indexed, tmp_path / "index")
    store = CatalogueStore(str(tmp_path / "shop"))
    photo = write_photo(tmp_path / "new.jpg", 41)
    store.remove(["gallery-0"], "Ann")
    store.add([from_photo(photo, "aaa", "Lumi oat"), from_photo(photo, "zzz", "Lumi oat")], "Ann")
    refresh(tmp_path / "shop", model, tmp_path / "index", shop / "cache")
    refresh(tmp_path / "shop", model, tmp_path / "fresh", tmp_path / "cache")
    rankings = []
    for name in ("index", "fresh"):
        searcher = searcher_of(tmp_path / name, model, made)
        order = [searcher.gallery.ids.index(item) for item in sorted(searcher.gallery.ids)]
        vectors = searcher.gallery.vectors(np.array(order))
        ranked = searcher.rank_vectors(vectors, {"image": 1.0, "text": 1.0}, 9)
        rankings.append([[item for item, _ in ranking] for ranking in ranked])
    assert rankings[0] == rankings[1]
    assert rankings[0][0][:2] == rankings[0][-1][:2] == ["aaa", "zzz"]  # copies, by id


def points_by_item(index: Path) -> dict[str, np.ndarray]:
    """Places and descriptors of every item's points."""
    ids = pq.read_table(index / "gallery.parquet")["id"].to_pylist()
    table = open_points(open_artifact(index, "catalogue"))
    assert table is not None
    assert len(table) == len(ids)
    return {
        item: np.c_[table[row].points_xy, table[row].descriptors] for row, item in enumerate(ids)
    }


def write_model_with_points(made: TinyArtifacts, folder: Path) -> Path:
    """A model that gives shared points a weight."""
    model = small_catalogue.write_model(made, folder)
    weights = {"image": 1.0, "text": 1.0, "points": 0.1}
    ServingConfig.read(model).model_copy(update={"weights": weights}).write(model)
    return model


def test_points_stay_with_their_items_whatever_is_added_and_removed(
    shop: Path, made: TinyArtifacts, tmp_path: Path
) -> None:
    model = write_model_with_points(made, tmp_path / "model")
    store, index = CatalogueStore(str(tmp_path / "shop")), tmp_path / "index"
    shutil.copytree(shop / "shop", tmp_path / "shop")
    refresh(tmp_path / "shop", model, index, tmp_path / "cache")
    before = points_by_item(index)
    photo = write_photo(tmp_path / "new.jpg", 41)
    store.add([from_photo(photo, "new", "Lumi oat"), from_photo(photo, "gallery-4", "oat")], "Ann")
    store.remove(["gallery-0"], "Ann")
    metrics = refresh(tmp_path / "shop", model, index, tmp_path / "cache")
    assert (metrics["checks_passed"], metrics["num_items"]) == (1, 8)
    after = points_by_item(index)
    refresh(tmp_path / "shop", model, tmp_path / "fresh", tmp_path / "cache")
    fresh = points_by_item(tmp_path / "fresh")
    assert after.keys() == fresh.keys() == {"new", *(f"gallery-{n}" for n in range(1, 8))}
    for item, points in after.items():
        np.testing.assert_array_equal(points, fresh[item])
    np.testing.assert_array_equal(after["gallery-7"], before["gallery-7"])
    assert len(after["new"]) > 0
    np.testing.assert_array_equal(after["gallery-4"], after["new"])


def test_files_of_points_that_did_not_change_are_not_written_again(
    shop: Path, made: TinyArtifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("product1m.catalogue.points.SHARD_ROWS", 4)
    monkeypatch.setattr("product1m.catalogue.points.LEAST_ROWS", 2)
    model = write_model_with_points(made, tmp_path / "model")
    store, index = CatalogueStore(str(tmp_path / "shop")), tmp_path / "index"
    shutil.copytree(shop / "shop", tmp_path / "shop")
    refresh(tmp_path / "shop", model, index, tmp_path / "cache")
    before = points_by_item(index)
    files = [path.stat().st_ino for path in sorted(index.glob("points-*"))]
    assert len(files) == 2
    store.add([from_photo(write_photo(tmp_path / "new.jpg", 41), "new", "Lumi oat")], "Ann")
    refresh(tmp_path / "shop", model, index, tmp_path / "cache")
    after = points_by_item(index)
    assert [path.stat().st_ino for path in sorted(index.glob("points-*"))][:2] == files
    assert after.keys() - before.keys() == {"new"}
    for item, points in before.items():
        np.testing.assert_array_equal(points, after[item])
    open_artifact(index, "catalogue").verify()


def test_the_catalogue_of_another_model_is_refused_by_name_and_built_anew(
    shop: Path, indexed: Path, model: Path, made: TinyArtifacts, tmp_path: Path
) -> None:
    other = small_catalogue.write_model(made, tmp_path / "other")
    config = ServingConfig.read(other)
    config.model_copy(update={"weights": {"text": 1.0}}).write(other)
    digests = [model_digest(folder)[:12] for folder in (model, other)]
    with pytest.raises(ArtifactError) as raised:
        open_catalogue(indexed, model_digest(other), "product1m version 7")
    for word in (*digests, "product1m version 7", "catalogue refresh"):
        assert word in str(raised.value)
    shutil.copytree(indexed, tmp_path / "index")
    metrics = refresh(shop / "shop", other, tmp_path / "index", tmp_path / "cache")
    assert (metrics["added"], metrics["rebuilt"]) == (8, 1)
    open_catalogue(tmp_path / "index", model_digest(other), "the other")


def test_a_refresh_that_removes_too_much_does_not_pass(
    shop: Path, indexed: Path, model: Path, tmp_path: Path
) -> None:
    shutil.copytree(shop / "shop", tmp_path / "shop")
    shutil.copytree(indexed, tmp_path / "index")
    CatalogueStore(str(tmp_path / "shop")).remove([f"gallery-{n}" for n in range(4)], "Ann")
    metrics = refresh(tmp_path / "shop", model, tmp_path / "index", shop / "cache")
    assert metrics["checks_passed"] == 0
    with pytest.raises(CatalogueError, match="size: 4 of 8 items removed"):
        step.require_passed(tmp_path / "index")


def test_a_canary_that_no_longer_finds_its_answer_is_noticed(
    shop: Path, indexed: Path, model: Path, tmp_path: Path
) -> None:
    index = tmp_path / "index"
    shutil.copytree(indexed, index)
    canaries = json.loads((index / "canaries.json").read_text("utf-8"))
    assert all(item == found for item, found in canaries.items())  # each finds itself
    metrics = refresh(shop / "shop", model, index, shop / "cache", canary_depth=1)
    assert metrics["checks_passed"] == 1
    first = min(canaries)
    changed = canaries | {first: next(found for found in canaries if found != first)}
    manifest = json.loads((index / "manifest.json").read_text("utf-8"))
    manifest["files"].pop("canaries.json")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, "known_canaries", lambda before: changed)
        metrics = refresh(shop / "shop", model, index, shop / "cache", canary_depth=1)
    assert metrics["checks_passed"] == 0
    with pytest.raises(CatalogueError, match=f"canaries: .* not {first}"):
        step.require_passed(index)


def test_a_factory_that_cannot_change_in_place_is_refused_before_anything_is_written(
    shop: Path, model: Path, tmp_path: Path
) -> None:
    with pytest.raises(RetrievalError, match=r"catalogue\.factory='HNSW16': a graph cannot"):
        refresh(shop / "shop", model, tmp_path / "index", shop / "cache", factory="HNSW16")
    assert not (tmp_path / "index").exists()

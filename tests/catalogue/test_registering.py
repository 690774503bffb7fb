"""Versions of the catalogue in a local MLflow store."""

import shutil
from pathlib import Path

import pytest

from product1m.catalogue import registering
from product1m.catalogue.new_items import from_photo
from product1m.catalogue.registering import fetch_catalogue, live_version, register_catalogue
from product1m.catalogue.store import CatalogueStore
from product1m.errors import ArtifactError
from product1m.serving.catalogue_folder import model_digest
from tests.support.worlds.registered_model import MlflowStore
from tests.support.worlds.small_catalogue import copy_gallery, refresh, write_photo
from tests.support.worlds.tiny_world import TinyArtifacts

NAME = "shop-catalogue"


def register_and_be_killed(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a version, and end before `live` moves."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(registering, "_serve", killed)
        with pytest.raises(KeyboardInterrupt):
            register_catalogue(index, NAME)


def test_live_moves_to_a_catalogue_that_passed_and_to_no_other(
    made: TinyArtifacts,
    model: Path,
    store: MlflowStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shop, index = copy_gallery(made, tmp_path / "shop"), tmp_path / "index"
    catalogue = CatalogueStore(str(shop))
    refresh(shop, model, index, tmp_path / "cache")
    register_and_be_killed(index, monkeypatch)
    assert live_version(NAME) is None
    assert register_catalogue(index, NAME, "models:/product1m@champion") == "1"
    photo = write_photo(tmp_path / "new.jpg", 21)
    catalogue.add([from_photo(photo, "new", "Lumi fig cream")], "Ann")
    refresh(shop, model, index, tmp_path / "cache")
    assert register_catalogue(index, NAME) == "2"
    live = live_version(NAME)
    assert live is not None
    expected = {"num_items": "9", "added": "1", "removed": "0", "recall_at_100": "1"}
    assert {name: live.tags[name] for name in expected} == expected
    assert live.tags["digest.model"] == model_digest(model)
    catalogue.remove([f"gallery-{number}" for number in range(5)], "Ann")
    refresh(shop, model, tmp_path / "less", tmp_path / "cache")  # no catalogue before: it passes
    shutil.copytree(index, tmp_path / "small")
    refresh(shop, model, tmp_path / "small", tmp_path / "cache")  # lost too many items
    for _ in range(2):  # the second time it is there already
        assert register_catalogue(tmp_path / "small", NAME) == "3"
    live = live_version(NAME)
    assert live is not None
    assert live.number == "2"

    digest = model_digest(model)
    fetched = fetch_catalogue(live, digest, "the champion", tmp_path / "fetched")
    assert (fetched.folder / "index.faiss").read_bytes() == (index / "index.faiss").read_bytes()
    again = fetch_catalogue(live, digest, "the champion", tmp_path / "again", fetched)
    assert again.digest == fetched.digest
    assert (tmp_path / "again/index.faiss").samefile(fetched.folder / "index.faiss")
    with pytest.raises(ArtifactError, match=r"shop-catalogue version 2.*another one has"):
        fetch_catalogue(live, "0" * 64, "another one", tmp_path)

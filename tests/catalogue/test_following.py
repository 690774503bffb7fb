"""A server that runs while the catalogue changes."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from product1m.catalogue.following import CatalogueFollower
from product1m.catalogue.new_items import from_photo
from product1m.catalogue.registering import register_catalogue
from product1m.catalogue.store import CatalogueStore
from product1m.errors import ArtifactError
from product1m.serving.live import Live, load_served
from product1m.serving.model_folder import ServingConfig
from tests.support.worlds import small_catalogue
from tests.support.worlds.registered_model import MlflowStore
from tests.support.worlds.small_catalogue import copy_gallery, refresh, write_photo
from tests.support.worlds.tiny_world import TinyArtifacts

NAME = "followed-catalogue"


@contextmanager
def asked_all_the_time(live: Live, photo: Path) -> Iterator[list[Exception]]:
    """Ask what is served again and again during the block; yields what goes wrong."""
    ended, failures = threading.Event(), list[Exception]()

    def ask() -> None:
        while not ended.is_set():
            try:
                live.current.service.answer([photo.read_bytes()], ["a very new pack"], 5)
            except Exception as error:  # whatever a request would see
                failures.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield failures
    finally:
        ended.set()
        asking.join()


def test_a_new_catalogue_is_swapped_in_while_requests_are_answered_and_another_models_is_not(
    made: TinyArtifacts, store: MlflowStore, tmp_path: Path
) -> None:
    served = tmp_path / "served"
    (served / "artifacts").mkdir(parents=True)
    model = small_catalogue.write_model(made, served / "artifacts" / "model")
    live = Live(lambda: load_served(served, "product1m version 7", is_signed=False))
    shop, index = copy_gallery(made, tmp_path / "shop"), tmp_path / "index"
    photo = write_photo(tmp_path / "new.jpg", 51)
    CatalogueStore(str(shop)).add([from_photo(photo, "new", "a very new pack")], "Ann")
    refresh(shop, model, index, tmp_path / "cache")
    follower = CatalogueFollower(live, NAME)
    assert not follower.check()  # there is none yet
    register_catalogue(index, NAME)

    with asked_all_the_time(live, photo) as failures:
        assert follower.check()
    assert failures == []
    (answer,) = live.current.service.answer([photo.read_bytes()], ["a very new pack"], 9)
    assert "new" in answer.result.merged
    assert live.current.thumbnails.jpeg("new")
    assert not follower.check()  # it is served already

    config = ServingConfig.read(model)
    other = small_catalogue.write_model(made, tmp_path / "other")
    config.model_copy(update={"weights": {"text": 1.0}}).write(other)
    refresh(shop, other, tmp_path / "others", tmp_path / "cache")
    register_catalogue(tmp_path / "others", NAME)
    before = live.current
    with pytest.raises(ArtifactError, match=r"version 2: .* but product1m version 7 has digest"):
        follower.check()
    assert live.current is before

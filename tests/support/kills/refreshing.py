"""What is killed between retrainings: a refresh of the served catalogue, an erasure, `data_state`.

The model is `SANDBOX/model`, the catalogue `SANDBOX/shop` and its index `SANDBOX/out`; vectors are
kept in `SANDBOX/cache`, and MLflow's files in `SANDBOX/run`.
"""

import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from product1m.artifacts.folder import open_artifact
from product1m.catalogue.erasure import erase_items, forget_vectors, holders
from product1m.catalogue.new_items import from_dataset
from product1m.catalogue.registering import DIGEST, LIVE, open_registered
from product1m.catalogue.store import CatalogueStore
from product1m.config import CatalogueConfig
from product1m.data import content_hashes
from product1m.data.checking import ERASED
from product1m.data.state import state_of
from product1m.registry.versions import list_versions
from product1m.retrieval.index import GALLERY
from product1m.steps import catalogue as step
from product1m.storage.scratch import scratch_folder
from product1m.telemetry.environment import environment_set
from tests.support.kills import registry, stores
from tests.support.worlds import small_catalogue
from tests.support.worlds.tiny_world import TinyArtifacts

LATE_ITEM = "gallery-7"
CONFIG = CatalogueConfig(num_canaries=4, max_shrinkage=1.0, max_growth=1.0)


def serve_catalogue(world: Path, sandbox: Path) -> None:
    """A model, a catalogue whose first index is `live`, and then two edits.

    Its vectors are computed again by what follows: a cache does not work at another place.
    """
    small_catalogue.write_model(TinyArtifacts(world), sandbox / "model")
    registry.create_store(world, sandbox)
    shop = CatalogueStore(str(sandbox / "shop"))
    items = {item.id: item for item in from_dataset(str(world / "dataset"))}
    shop.add([item for name, item in items.items() if name != LATE_ITEM], "Ann")
    refresh(world, sandbox)
    shutil.rmtree(sandbox / "cache")
    shop.add([items[LATE_ITEM]], "Bo")
    shop.remove([stores.REMOVED_ITEM], "Bo")


def refresh(_world: Path, sandbox: Path) -> None:
    """What the task of the pipeline does; the model is taken as verified."""
    setattr(step, "fetch_model", lambda model, *_: Path(model))  # noqa: B010  mypy
    config = CONFIG.model_copy(update={"cache": str(sandbox / "cache")})
    with registry.store_of(sandbox):
        step.refresh_live(str(sandbox / "shop"), str(sandbox / "model"), sandbox / "out", config)


def erase(world: Path, sandbox: Path) -> None:
    """Refresh, erase an item, as somebody who does not know whether it worked, and refresh."""
    refresh(world, sandbox)
    shop = CatalogueStore(str(sandbox / "shop"))
    gone = erase_items(shop, [stores.ERASED_ITEM], "Bo", "demand")
    forget_vectors(str(sandbox / "cache"), gone.photos)
    refresh(world, sandbox)


def refreshed(sandbox: Path) -> dict[str, Any]:
    """What is served, what every version holds, and what belongs to nothing."""
    with registry.store_of(sandbox), scratch_folder() as scratch:
        versions = list_versions(CONFIG.catalogue_model)
        live = next(version for version in versions if LIVE in version.aliases)
        served = open_registered(live, "", "any model", scratch)
        served.verify()
        artifact = open_artifact(sandbox / "out", "catalogue")
        artifact.verify()
        return {
            "items": sorted(pq.read_table(served.file(GALLERY))["id"].to_pylist()),
            "live": live.number,
            "digest": [artifact.digest == live.tags[DIGEST], live.tags[DIGEST]],
            "versions": sorted(version.number for version in versions),
            **registry.left(sandbox, CONFIG.catalogue_model),
        }


def erased(sandbox: Path) -> dict[str, Any]:
    """What is served, and files that hold the erased photo or what was computed from it."""
    shop = CatalogueStore(str(sandbox / "shop"))
    marks = [file.name.rpartition("/")[2] for file in shop.store.files(ERASED)]
    places = [str(sandbox / name) for name in ("cache", "out")]
    objects = sorted(path.name for path in (sandbox / "cache").glob("*/objects/*/*"))
    return {
        **refreshed(sandbox),
        "marks": sorted(marks),
        "holders": holders(places, marks),
        "objects": objects,
    }


def read_state(world: Path, sandbox: Path) -> None:
    """The state of the data set, in batches of two files; hashes are kept in the sandbox."""
    setattr(content_hashes, "_BATCH", 2)  # noqa: B010  mypy
    setattr(content_hashes, "SETTLED_S", -60.0)  # noqa: B010  as if all was written a minute ago
    with environment_set({"XDG_CACHE_HOME": str(sandbox / "cache")}):
        state = state_of(str(world / "dataset"))
    (sandbox / "state.txt").write_text(state["dataset_digest"])


def state_read(sandbox: Path) -> dict[str, Any]:
    """The digest."""
    return {"state": (sandbox / "state.txt").read_text()}

"""The data of a run: where it is, checked before any work, and its state where that is needed.

The first task of a run, `data_state`, computes the state. What runs before it, or without it, gets
it here from the same code.
"""

from collections.abc import Mapping
from pathlib import Path

from product1m.data.lists import find_lists
from product1m.data.photo_sources import list_names
from product1m.data.state import BACKGROUNDS, data_store, holds_files, state_of
from product1m.errors import DatasetError
from product1m.storage.base import Store
from product1m.storage.folder import Folder
from product1m.storage.opening import open_store


def data_parameters(dataset: str, backgrounds: str = "") -> dict[str, str]:
    """The pipeline's data parameters; DatasetError before any work if the data does not exist.

    Without `backgrounds` the data set's own `backgrounds/` is used if it exists. The state of the
    data is left to the run's first task.
    """
    data = check_dataset(dataset)
    own = open_store(f"{data.uri}/{BACKGROUNDS}")
    photos: Store | None = own if holds_files(own) else None
    if backgrounds:
        photos = existing(backgrounds, "--backgrounds")
    return stated_parameters(data.uri, photos.uri if photos else "", "")


def with_state(parameters: Mapping[str, str]) -> dict[str, str]:
    """The data parameters with the state of the data, which is read."""
    state = state_of(parameters["dataset_uri"], parameters["backgrounds_uri"])
    return {**parameters, **state}


def stated_parameters(dataset: str, backgrounds: str, digest: str) -> dict[str, str]:
    """The data parameters without reading the data, whose state is named by `digest`.

    Without a name the run's first task reads the data.
    """
    return {
        "dataset_uri": dataset,
        "dataset_digest": digest,
        "backgrounds_uri": backgrounds,
        "backgrounds_digest": digest,
    }


def data_name(dataset: str) -> str:
    """What a data set is called in the names of runs: the last part of its address."""
    return dataset.rstrip("/").rpartition("/")[2] or "data"


def check_dataset(dataset: str) -> Store:
    """The data set's folder or prefix; DatasetError if it is absent or holds no lists."""
    data = existing(dataset, "--dataset")
    if isinstance(data, Folder):
        find_lists(data.root)
    else:
        find_lists(Path(), data.uri, list_names(data))
    return data


def existing(uri: str, option: str) -> Store:
    """The folder or prefix, made absolute; DatasetError names the option it came from."""
    try:
        return data_store(uri)
    except DatasetError as error:
        raise DatasetError(f"{option} {error}") from error

"""Large files to and from MLflow, without a copy where it keeps its files on this machine.

Such a file is a second name of the same bytes, which nobody may change: whoever replaces a file
writes a new one and renames it.
"""

import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

from product1m.storage.base import checked_name
from product1m.storage.folder import link_or_copy
from product1m.telemetry.mlflow_client import download, talking_to_registry

FEW = 200
"""Most files that are asked for one by one, each with some requests to the server (ours)."""


def local_folder(model_uri: str) -> Path | None:
    """Where a model's files are if MLflow keeps them on this machine; else None."""
    with talking_to_registry(f"looking for the files of {model_uri}"):
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
        from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

        repository = get_artifact_repository(model_uri)
        inner = getattr(repository, "repo", repository)
        return Path(inner.artifact_dir) if isinstance(inner, LocalArtifactRepository) else None


def download_files(model_uri: str, names: Collection[str], folder: Path) -> None:
    """Fetch some files of a model into a folder that holds none of them.

    Raises RegistryError if MLflow does not answer, DiskError for a full disk.
    """
    names = [checked_name(name) for name in names]
    source = local_folder(model_uri)
    if source is not None:
        for name in names:
            link_or_copy(source / name, folder / name)
    elif len(names) <= FEW:
        for name in names:
            download(model_uri, name, folder)
    else:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            download(model_uri, "", Path(scratch))
            for name in names:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (Path(scratch) / name).rename(folder / name)


def upload_files(client: Any, model_id: str, folder: Path) -> None:
    """Add the files of a folder to a logged model; they must not be changed afterwards."""
    target = local_folder(f"models:/{model_id}")
    if target is None:
        client.log_model_artifacts(model_id, str(folder))
        return
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            link_or_copy(path, target / path.relative_to(folder))

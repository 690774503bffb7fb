"""Catalogues as versions of a registered model, and the alias `live`: the one that is served.

A refresh has an account of its own, which may write versions of this model and move this alias, and
nothing else. A champion is signed by a reviewer; a catalogue is not, because it changes daily. It
holds no code and no weights, and it is refused with any other model.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from product1m.artifacts.folder import Artifact, open_artifact
from product1m.artifacts.manifest import MANIFEST
from product1m.errors import ArtifactError, RegistryError
from product1m.registry.claims import PROCESS
from product1m.registry.leftovers import remove_left_by_refreshes
from product1m.registry.logged_models import logged_model, own_experiment
from product1m.registry.roles import CATALOGUES
from product1m.registry.versions import ModelVersion, ensure_model, list_versions
from product1m.retrieval.building import RECALL_DEPTH
from product1m.serving.catalogue_folder import MODEL, STEP, open_catalogue
from product1m.telemetry.mlflow_client import talking_to_registry
from product1m.telemetry.mlflow_transfers import download_files, local_folder, upload_files
from product1m.telemetry.processes import this_process

logger = logging.getLogger(__name__)

LIVE = "live"
"""Alias of the catalogue that is served."""
NAME = "catalogue"
"""Name of the logged model within its run."""
DIGEST, MODEL_DIGEST = "digest.catalogue", "digest.model"
"""Tags: SHA-256 of the catalogue's content, and of the model that it was built with."""
PASSED = "checks_passed"
"""Tag and metric: 1 if the catalogue may be served."""
COUNTS = ("num_items", "added", "removed", "changed", f"recall@{RECALL_DEPTH}", PASSED)
"""Metrics of the step that are tags of a version."""


def live_version(name: str) -> ModelVersion | None:
    """The version that the alias `live` names; None if there is none."""
    return next((row for row in list_versions(name) if LIVE in row.aliases), None)


def register_catalogue(folder: Path, name: str, champion: str = "") -> str:
    """Log a catalogue as the newest version of `name`; `live` moves to it if its checks passed.

    Args:
        folder: of the catalogue.
        name: of the registered model.
        champion: the model that it was built with, as it was asked for.

    Returns:
        The version's number; if `live` or a later version has the same content, that one's, and
        nothing is registered: a killed refresh has made the later version, or its checks failed.

    Raises RegistryError if MLflow refuses.
    """
    catalogue = open_artifact(folder, STEP)
    remove_left_by_refreshes(NAME)
    tags = _tags(catalogue, champion)
    known = _version_with(tags, name)
    if known:
        logger.info("%s: %s has this content already", name, known.title)
        if LIVE not in known.aliases:
            _serve(catalogue, name, known.number)
        return known.number
    with _logged(catalogue, name) as (client, logged):
        upload_files(client, logged.model_id, folder)
    with talking_to_registry(f"registering a version of {name}") as client:
        ensure_model(client, name)
        version = client.create_model_version(
            name,
            f"models:/{logged.model_id}",
            logged.source_run_id,
            tags=tags,
            model_id=logged.model_id,
            description=_description(catalogue),
        ).version
    _serve(catalogue, name, str(version))
    logger.info("%s: registered version %s", name, version)
    return str(version)


def _version_with(tags: dict[str, str], name: str) -> ModelVersion | None:
    """`live` or the newest version after it, if it has this content; after it also these checks."""
    for version in list_versions(name):  # newest first
        same = [key for key in (DIGEST, MODEL_DIGEST, PASSED) if version.tags.get(key) == tags[key]]
        if LIVE in version.aliases:
            return version if {DIGEST, MODEL_DIGEST} <= {*same} else None
        if len(same) == 3:
            return version
    return None


def _serve(catalogue: Artifact, name: str, version: str) -> None:
    """Move `live` to a version if its checks passed."""
    if catalogue.manifest.metrics[PASSED]:
        with talking_to_registry(f"moving `{LIVE}` of {name}") as client:
            client.set_registered_model_alias(name, LIVE, version)


def fetch_catalogue(
    version: ModelVersion, digest: str, title: str, folder: Path, known: Artifact | None = None
) -> Artifact:
    """Download a version into an empty folder and verify every file of it.

    Args:
        version: of the registered model.
        digest: of the model that will answer with it; empty for any.
        title: name of that model, for messages.
        folder: where to write it.
        known: an earlier version; what it has too is not downloaded and verified again.

    Raises ArtifactError if it is damaged or another model's, RegistryError if it does not exist.
    """
    catalogue = _downloaded(version, digest, title, folder, known)
    catalogue.verify()
    return catalogue


def open_registered(version: ModelVersion, digest: str, title: str, folder: Path) -> Artifact:
    """A version where MLflow keeps it, if that is on this machine, else downloaded to a folder.

    A file is verified when it is first used. Arguments and errors as in `fetch_catalogue`.
    """
    source = local_folder(version.uri)
    if source is None:
        return _downloaded(version, digest, title, folder)
    return _opened(version, digest, title, source)


def _downloaded(
    version: ModelVersion, digest: str, title: str, folder: Path, known: Artifact | None = None
) -> Artifact:
    stated = version.tags.get(MODEL_DIGEST, "none")
    if digest and stated != digest:  # before a large download
        raise ArtifactError(
            f"{version.title}: a catalogue of the model with digest {stated[:12]}, but {title} has "
            f"digest {digest[:12]}; refresh the catalogue with that model"
        )
    folder.mkdir(parents=True, exist_ok=True)
    download_files(version.uri, [MANIFEST], folder)
    catalogue = _opened(version, digest, title, folder)
    files = catalogue.take_from(known) if known else list(catalogue.manifest.files)
    download_files(version.uri, files, folder)
    return catalogue


def _opened(version: ModelVersion, digest: str, title: str, folder: Path) -> Artifact:
    """Open a version's folder, whose manifest must be what its tag says."""
    catalogue = open_catalogue(folder, digest, title) if digest else open_artifact(folder, STEP)
    actual, stated = catalogue.manifest.content_digest(), version.tags.get(DIGEST, "none")
    if not actual == catalogue.digest == stated:
        raise RegistryError(
            f"{version.title}: its files have the digest {actual[:12]}, its tag says "
            f"{stated[:12]}; refresh the catalogue"
        )
    return catalogue


def _tags(catalogue: Artifact, champion: str) -> dict[str, str]:
    metrics = catalogue.manifest.metrics
    counts = {name.replace("@", "_at_"): f"{metrics[name]:g}" for name in COUNTS}
    return {
        DIGEST: catalogue.digest,
        MODEL_DIGEST: str(catalogue.manifest.details[MODEL]),
        "champion": champion or "none",
        **counts,
    }


def _description(catalogue: Artifact) -> str:
    """What the page of a version says."""
    metrics, checks = catalogue.manifest.metrics, catalogue.manifest.details["checks"]
    lines = [f"{metrics['num_items']:.0f} items.", ""]
    lines += [
        f"- {check['name']} {'passed' if check['passed'] else '**failed**'}: {check['reason']}"
        for check in checks
    ]
    return "\n".join(lines)


@contextmanager
def _logged(catalogue: Artifact, name: str) -> Iterator[tuple[Any, Any]]:
    with talking_to_registry(f"logging a catalogue for {name}") as client:
        experiment = own_experiment(
            client, CATALOGUES, lambda: client.get_experiment_by_name("Default").artifact_location
        )
        title = f"catalogue {catalogue.digest[:12]}"
        digest = str(catalogue.manifest.details[MODEL])
        tags = {MODEL_DIGEST: digest, PROCESS: this_process()}
        with logged_model(client, experiment, NAME, title, tags) as logged:
            yield client, logged

"""The model registry: the pipeline's candidates, and a reviewer's acts on the champion.

The pipeline writes versions of the candidate model alone. A reviewer's `promote` copies one to the
champion model and moves its alias; MLflow records no actor, so who, when and why become tags.
"""

import getpass
import json
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from product1m.artifacts import open_artifact, sha256_of
from product1m.config import RegistrationConfig
from product1m.errors import ArtifactError, RegistryError
from product1m.gate import EVIDENCE, Champion, Evidence, Gate, decide

NONE = "none"
CHALLENGER, CHAMPION = "challenger", "champion"
STEP_OF = {"rpn": "rpn_training", "capture": "capture_pretraining", "index": "indexing"}
"""Folders of a registered model to the steps that wrote them."""
SERVING, CODE = "serving.json", "serving.py"
MODEL_FOLDER = "model"
"""The one MLflow artifact of a version, with those folders and `serving.json`."""


@dataclass(frozen=True)
class Version:
    """A registered version, as a reviewer sees it in a list."""

    model: str
    number: str
    created: datetime
    aliases: tuple[str, ...]
    tags: Mapping[str, str]
    description: str


def quiet_mlflow() -> Any:
    """MLflow with its pyfunc part, imported without the warnings it gives about itself."""
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        raise RegistryError(
            "MLFLOW_TRACKING_URI is not set; name the server or database that keeps the registry, "
            "as in MLFLOW_TRACKING_URI=sqlite:///build/sample/mlflow.db"
        )
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow
        import mlflow.pyfunc
    return mlflow


@contextmanager
def talking_to_registry(action: str) -> Iterator[Any]:
    """MLflow's client; whatever MLflow refuses comes out as a RegistryError that names the act."""
    mlflow = quiet_mlflow()
    try:
        yield mlflow.MlflowClient()
    except (mlflow.exceptions.MlflowException, OSError) as error:
        uri = mlflow.get_registry_uri()
        raise RegistryError(f"{action} at {uri}: {error}") from error


def register(model_uri: str, name: str, tags: Mapping[str, str], description: str) -> str:
    """Make a logged model the newest version of `name` and its challenger; returns the number."""
    with talking_to_registry(f"registering a version of {name}") as client:
        version = quiet_mlflow().register_model(model_uri, name, tags=dict(tags)).version
        client.update_model_version(name, version, description)
        client.set_registered_model_alias(name, CHALLENGER, version)
    return str(version)


def list_versions(name: str) -> list[Version]:
    """Every version of a registered model, newest first; none where there is no such model."""
    with talking_to_registry(f"listing {name}") as client:
        if not client.search_registered_models(f"name = '{name}'"):
            return []
        aliases = client.get_registered_model(name).aliases
        found = client.search_model_versions(f"name = '{name}'")
        versions = [_version(row, aliases) for row in found]
    return sorted(versions, key=lambda version: -int(version.number))


def show(name: str, which: str) -> Version:
    """One version by number or alias; RegistryError lists what there is."""
    versions = list_versions(name)
    for version in versions:
        if which == version.number or which in version.aliases:
            return version
    known = ", ".join(" ".join([version.number, *version.aliases]) for version in versions)
    raise RegistryError(f"{name}: no version {which!r}; it has {known or 'none'}")


def current_champion(config: RegistrationConfig) -> Champion | None:
    """The version that the alias `champion` names, with its evidence; None if there is none."""
    for version in list_versions(config.champion_model):
        if CHAMPION in version.aliases:
            return Champion(version.number, _evidence(version), version.tags)
    return None


def promote(
    which: str, reason: str, config: RegistrationConfig, by: str = "", override: str = ""
) -> Version:
    """Copy a candidate to the champion model and make it the champion.

    The gate is decided again, against today's champion, and every file of the model is checked.

    Args:
        which: number or alias of a candidate version.
        reason: why; recorded.
        config: names of the two models; the rules are those the version was registered under.
        by: who; the account's name unless given.
        override: why a version that the gate or its sample data speaks against is promoted all the
            same; recorded with what it overrides.
    """
    by = _named(by, reason)
    candidate = show(config.candidate_model, which)
    evidence = _evidence(candidate)
    if evidence is None:
        raise RegistryError(f"{_title(candidate)}: has no {EVIDENCE}; it was not fully registered")
    champion = current_champion(config)
    gate = decide(evidence, champion)
    objections = _objections(candidate, gate)
    if objections and not override.strip():
        raise RegistryError(
            f"{_title(candidate)} is not for promotion:\n  "
            + "\n  ".join(objections)
            + "\nTo promote it all the same, give a reason as override; it is recorded"
        )
    verify_files(candidate)
    tags = {
        "promoted_by": by,
        "promoted_at": _now(),
        "promotion_reason": reason.strip(),
        "promoted_from": f"{candidate.model}/{candidate.number}",
        "previous_champion": champion.version if champion else NONE,
        "promotion_gate": gate.verdict,
    }
    if objections:
        tags |= {"override": override.strip(), "overridden": "; ".join(objections)}
    return _crown(candidate, config.champion_model, tags)


def rollback(reason: str, config: RegistrationConfig, by: str = "", to: str = "") -> Version:
    """Make the previous champion, or version `to`, the champion again; nothing is deleted."""
    by = _named(by, reason)
    champion = show(config.champion_model, CHAMPION)
    target = to or champion.tags.get("previous_champion", NONE)
    if target == NONE:
        raise RegistryError(
            f"{_title(champion)} has no previous champion; name a version to go back to"
        )
    restored = show(config.champion_model, target)
    if restored.number == champion.number:
        raise RegistryError(f"{_title(champion)} is the champion already")
    verify_files(restored)
    record = {"by": by, "reason": reason.strip(), "from": champion.number, "to": restored.number}
    with talking_to_registry(f"rolling back {config.champion_model}") as client:
        for version in (champion, restored):
            # A key of its own each time, so that no record overwrites another.
            key = f"rollback.{_now()}"
            client.set_model_version_tag(version.model, version.number, key, json.dumps(record))
        client.set_registered_model_alias(restored.model, CHAMPION, restored.number)
    return show(restored.model, restored.number)


def verify_files(version: Version) -> None:
    """Fetch a version's files and check them against its tags; RegistryError names a wrong one."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = _download(version, "", scratch)
        model = folder / "artifacts" / MODEL_FOLDER
        found = digests_of(model, folder / CODE, folder / EVIDENCE)
    for name, digest in found.items():
        expected = version.tags.get(f"digest.{name}", "none")
        if digest != expected:
            raise RegistryError(
                f"{_title(version)}: {name} has digest {digest}, but was registered with "
                f"{expected}; it was changed since, register the pipeline's output again"
            )


def digests_of(model: Path, code: Path, evidence: Path) -> dict[str, str]:
    """Digest of everything a version consists of, from the files themselves."""
    digests = {path.name: sha256_of(path) for path in (model / SERVING, code, evidence)}
    for name, step in STEP_OF.items():
        try:
            artifact = open_artifact(model / name, step)
            artifact.verify()
        except ArtifactError as error:
            raise RegistryError(f"{name}: {error}") from error
        digests[step] = artifact.manifest.content_digest()
    return digests


def _objections(candidate: Version, gate: Gate) -> list[str]:
    objections = [
        f"{rule.name}: expected {rule.expected}, found {rule.found}" for rule in gate.failures()
    ]
    if candidate.tags.get("sample_data") != "false":
        objections.insert(0, "it was trained on sample data")
    return objections


def _crown(candidate: Version, model: str, tags: Mapping[str, str]) -> Version:
    with talking_to_registry(f"promoting {_title(candidate)} to {model}") as client:
        source = f"models:/{candidate.model}/{candidate.number}"
        number = client.copy_model_version(source, model).version
        for key, value in tags.items():
            client.set_model_version_tag(model, number, key, value)
        client.update_model_version(model, number, candidate.description)
        client.set_registered_model_alias(model, CHAMPION, number)
    return show(model, str(number))


def _evidence(version: Version) -> Evidence | None:
    with talking_to_registry(f"listing the files of {_title(version)}"):
        uri = f"models:/{version.model}/{version.number}"
        files = quiet_mlflow().artifacts.list_artifacts(uri)
    if EVIDENCE not in {Path(file.path).name for file in files}:
        return None
    with tempfile.TemporaryDirectory() as scratch:
        path = _download(version, EVIDENCE, scratch)
        try:
            return Evidence.model_validate_json(path.read_text("utf-8"))
        except ValidationError as error:
            raise RegistryError(f"{_title(version)}: {EVIDENCE} is damaged: {error}") from error


def _download(version: Version, path: str, to: str) -> Path:
    with talking_to_registry(f"reading {path or 'the files'} of {_title(version)}"):
        uri = f"models:/{version.model}/{version.number}/{path}".rstrip("/")
        return Path(quiet_mlflow().artifacts.download_artifacts(uri, dst_path=to))


def _version(row: Any, aliases: Mapping[str, str]) -> Version:
    # The rows of a search lack their aliases, the model itself has them.
    names = tuple(
        sorted(alias for alias, number in aliases.items() if str(number) == str(row.version))
    )
    created = datetime.fromtimestamp(row.creation_timestamp / 1000, UTC)
    return Version(
        row.name, str(row.version), created, names, dict(row.tags), row.description or ""
    )


def _named(by: str, reason: str) -> str:
    if not reason.strip():
        raise RegistryError("a reason is needed; it is all that later tells why this was done")
    return by.strip() or getpass.getuser()


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _title(version: Version) -> str:
    return f"{version.model} version {version.number}"

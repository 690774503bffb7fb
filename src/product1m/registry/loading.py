"""Fetch a model to load it: verified before anything of it is read."""

from dataclasses import replace
from pathlib import Path

from product1m.artifacts.model_parts import MODELS
from product1m.errors import RegistryError, StorageError
from product1m.registry.evidence import EVIDENCE
from product1m.registry.roles import CHALLENGER, CHAMPION, CHAMPION_URI
from product1m.registry.version_files import parse_evidence
from product1m.registry.versions import (
    ModelVersion,
    is_recorded,
    list_versions,
    show,
    warning,
)
from product1m.serving.live import ServedModel, load_from_scratch, load_served
from product1m.serving.signatures import (
    ALLOW,
    ALLOW_OPTION,
    DOWNLOADED_FROM,
    SIGNATURE,
    Trust,
    require_signed,
    signature_of,
)
from product1m.telemetry.mlflow_client import download


def fetch_model(model: str, candidate_model: str, trust: Trust, scratch: Path) -> Path:
    """The folder of a model that may be loaded.

    Reviewers look at candidates before anyone signs them, so a version of the candidate model is
    fetched as it is; loading it runs this package's code on its data. Everything else must be
    signed by a trusted key, and a champion must have been made by `promote` or `rollback`.

    Args:
        model: `models:/NAME/VERSION`, `models:/NAME@ALIAS`, `models:/ID`, or a folder.
        candidate_model: name of the model that the pipeline writes.
        trust: whose signature counts.
        scratch: where files are downloaded to.

    Raises StorageError for another address, RegistryError for a model that is missing or unsigned.
    """
    if Path(model).is_dir():
        require_signed(Path(model), signature_of(Path(model)), trust, model)
        return Path(model)
    if not model.startswith(MODELS):
        raise StorageError(
            f"{model}: no such folder; expected the folder of a model, or a registered model such "
            f"as {CHAMPION_URI}"
        )
    name, which = _name_and_version(model)
    if not which:
        return _fetch(model, trust, scratch, model)
    if name == candidate_model:
        return download(show(name, which).uri, "", scratch)
    version = _promoted(name, which, candidate_model)
    _require_recorded(version, which, trust)
    return fetch_signed(version, trust, scratch)


def _promoted(name: str, which: str, candidate_model: str) -> ModelVersion:
    """A version; without a champion the RegistryError says what there is to look at."""
    try:
        return show(name, which)
    except RegistryError as error:
        if which != CHAMPION:
            raise
        candidates = list_versions(candidate_model)
        advice = (
            f"look at the newest candidate with --model {MODELS}{candidate_model}@{CHALLENGER}, or "
            f"promote it: `{candidates[0].promote_command}`"
            if candidates
            else "register a candidate first (`make sample`, or `python -m pipelines run`); "
            "`make demo` needs none"
        )
        raise RegistryError(f"{error}: nothing was promoted yet; {advice}") from error


def fetch_signed(version: ModelVersion, trust: Trust, scratch: Path) -> Path:
    """Download a version and verify it, before anything of it is read."""
    return _fetch(version.uri, trust, scratch, version.title)


def _fetch(uri: str, trust: Trust, scratch: Path, title: str) -> Path:
    """The files, and the signature beside them."""
    (scratch / "model").mkdir()
    folder = download(uri, "", scratch / "model")
    (folder / DOWNLOADED_FROM).unlink(missing_ok=True)
    signature = scratch / SIGNATURE
    if (folder / SIGNATURE).is_file():
        (folder / SIGNATURE).rename(signature)
    require_signed(folder, signature, trust, title)
    return folder


def _name_and_version(uri: str) -> tuple[str, str]:
    """Name and version or alias; no version if it is a logged model."""
    text = uri.removeprefix(MODELS)
    separator = "@" if "@" in text else "/"
    name, _, which = text.rpartition(separator)
    return (name, which) if name else (text, "")


def _require_recorded(version: ModelVersion, which: str, trust: Trust) -> None:
    """RegistryError if the champion is one that neither `promote` nor `rollback` made."""
    if trust.allow_unsigned:
        return
    by_alias = which in version.aliases
    if not is_recorded(version) or (by_alias and warning(version, list_versions(version.model))):
        raise RegistryError(
            f"{version.title}: neither promote nor rollback made it champion, somebody did so on "
            f"MLflow's page or by its API; nothing was loaded. Look at it with `product1m registry "
            f"show {version.model}/{version.number}`; to load it anyway add {ALLOW_OPTION} or set "
            f"{ALLOW}=true"
        )


def load_model(model: str, candidate_model: str, trust: Trust) -> ServedModel:
    """Fetch, verify and load a model for a server, as `fetch_model` takes it and refuses it."""

    def load(scratch: Path) -> ServedModel:
        folder = fetch_model(model, candidate_model, trust, scratch)
        return load_served(folder, model, _is_signed(folder, trust), _is_sample(folder))

    return load_from_scratch(load)


def _is_signed(folder: Path, trust: Trust) -> bool:
    """Whether a trusted signature covers what `fetch_model` let pass."""
    signature = signature_of(folder)
    if not signature.is_file():
        return False
    return require_signed(folder, signature, replace(trust, allow_unsigned=True), folder.name)


def _is_sample(folder: Path) -> bool:
    """Whether a model's evidence says that it was trained on sample data."""
    path = folder / EVIDENCE
    if not path.is_file():
        return False
    return parse_evidence(path.read_bytes(), folder.name).rules.sample_data

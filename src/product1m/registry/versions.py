"""The model registry as it stands: versions, their files, what they were measured to do.

The pipeline writes versions of the candidate model alone; a reviewer's acts, which make versions of
the champion model, are in `registry_acts`.
"""

import json
import os
import re
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from product1m.artifacts.folder import open_artifact
from product1m.artifacts.manifest import Summary
from product1m.config import RegistrationConfig
from product1m.errors import ArtifactError, RegistryError
from product1m.registry.gate import EVIDENCE, Champion, Evidence
from product1m.storage.base import sha256_of

NONE = "none"
CHALLENGER, CHAMPION = "challenger", "champion"
STEP_OF = {
    "rpn": "rpn_training",
    "capture": "capture_pretraining",
    "index": "indexing",
    "thumbnails": "registration",
}
"""Folders of a registered model to the steps that wrote them; the last one need not be there."""
SERVING, CODE = "serving.json", "mlflow_model.py"
MODEL_FOLDER = "model"
"""The one MLflow artifact of a version, with those folders and `serving.json`."""
LINEAGE, GATE, CARD = "lineage.json", "gate.json", "model_card.md"
PAGE, PICTURE = "reviewer.html", "regressions.jpg"
"""Files of a version beside its model and `evidence.json`."""
MAX_CHARS = 5000
"""Width of the description's column in MLflow's database."""
MISSING = "missing"
"""Digest of a file that a version was registered without."""
_LINEAGE = TypeAdapter(dict[str, Summary])
_LINKED = re.compile(
    rf"\]\((?:model-versions/get-artifact\?path=)?({re.escape(PAGE)}|{re.escape(PICTURE)})[^)]*\)"
)


@dataclass(frozen=True)
class Version:
    """A registered version, as a reviewer sees it in a list."""

    model: str
    number: str
    created: datetime
    aliases: tuple[str, ...]
    tags: Mapping[str, str]
    description: str
    run_id: str = ""
    model_id: str = ""
    rejection: Mapping[str, str] = field(default_factory=dict)
    """`by`, `at`, `reason` of a candidate that a reviewer rejected."""

    @property
    def title(self) -> str:
        """Model and number."""
        return f"{self.model} version {self.number}"

    @property
    def uri(self) -> str:
        """As MLflow takes it."""
        return f"models:/{self.model}/{self.number}"


def quiet_mlflow() -> Any:
    """MLflow, where it is said which registry is meant; RegistryError where it is not."""
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        raise RegistryError(
            "MLFLOW_TRACKING_URI is not set; name the server or database that keeps the registry, "
            "as in MLFLOW_TRACKING_URI=sqlite:///build/sample/mlflow.db"
        )
    return import_mlflow()


def import_mlflow() -> Any:
    """MLflow with its pyfunc part, without the warnings it gives about itself."""
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
        who = os.environ.get("MLFLOW_TRACKING_USERNAME")
        refused = f" (user {who})" if who else ""
        raise RegistryError(f"{action} at {uri}{refused}: {error}") from error


def register(model_uri: str, name: str, tags: Mapping[str, str], card: str) -> str:
    """Make a logged model the newest version of `name` and its challenger; returns the number.

    The card becomes the description, its picture shown from the version's files.
    """
    model_id = model_uri.removeprefix("models:/")
    with talking_to_registry(f"registering a version of {name}") as client:
        ensure_model(client, name)
        version = client.create_model_version(
            name,
            model_uri,
            client.get_logged_model(model_id).source_run_id,
            tags=dict(tags),
            model_id=model_id,
        ).version
        client.update_model_version(name, version, page_text(card, name, str(version)))
        client.set_registered_model_alias(name, CHALLENGER, version)
        registered = json.dumps([{"name": name, "version": str(version)}])
        client.set_logged_model_tags(model_id, {"mlflow.modelVersions": registered})
    return str(version)


def ensure_model(client: Any, name: str) -> None:
    """Make a registered model where there is none.

    Asked before it is tried: creating takes a right that an identity of least privilege lacks.
    """
    if client.search_registered_models(f"name = '{name}'"):
        return
    try:
        client.create_registered_model(name)
    except quiet_mlflow().exceptions.MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":  # somebody was faster
            raise


def page_text(card: str, name: str, number: str) -> str:
    """A card whose picture and page are fetched from a version's files.

    MLflow's page strips pictures embedded as data URIs and shows those that its server holds.
    """
    link = rf"](model-versions/get-artifact?path=\1&name={name}&version={number})"
    return shorten(_LINKED.sub(link, card))


def shorten(card: str) -> str:
    """Cut a card that does not fit MLflow's column, at a line's end."""
    if len(card) <= MAX_CHARS:
        return card
    more = "\n\n… cut; the rest is in `reviewer.html` and `model_card.md` among the files.\n"
    kept = card[: MAX_CHARS - len(more)]
    return kept[: kept.rfind("\n")] + more


def list_versions(name: str, config: RegistrationConfig | None = None) -> list[Version]:
    """Every version of a registered model, newest first; none where there is no such model.

    With `config`, versions of the candidate model come with what reviewers rejected.
    """
    with talking_to_registry(f"listing {name}") as client:
        if not client.search_registered_models(f"name = '{name}'"):
            return []
        aliases = client.get_registered_model(name).aliases
        found = client.search_model_versions(f"name = '{name}'")
        rejected = _rejections(client, config) if config and name == config.candidate_model else {}
        versions = [_version(row, aliases, rejected) for row in found]
    return sorted(versions, key=lambda version: -int(version.number))


def show(name: str, which: str, config: RegistrationConfig | None = None) -> Version:
    """One version by number or alias; RegistryError lists what there is."""
    versions = list_versions(name, config)
    for version in versions:
        if which == version.number or which in version.aliases:
            return version
    known = ", ".join(" ".join([version.number, *version.aliases]) for version in versions)
    raise RegistryError(f"{name}: no version {which!r}; it has {known or 'no versions'}")


def find(reference: str, config: RegistrationConfig) -> Version:
    """A version by a short name.

    `champion` is the champion model's, `MODEL/7` or `MODEL/alias` any model's, anything else a
    number or an alias of the candidate model.
    """
    model, slash, which = reference.rpartition("/")
    if slash:
        return show(model, which, config)
    name = config.champion_model if reference == CHAMPION else config.candidate_model
    return show(name, reference, config)


def champion_among(versions: Iterable[Version]) -> Version | None:
    """The version that the alias `champion` names; None if there is none."""
    return next((version for version in versions if CHAMPION in version.aliases), None)


def as_champion(version: Version) -> Champion:
    """A version with its evidence, to hold candidates against."""
    return Champion(version.number, read_evidence(version), version.tags)


def verify_version(version: Version) -> None:
    """Fetch a version, check its files against its tags, load it and ask it its input example.

    Raises RegistryError that names a wrong file, or says why the model does not answer.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = download(version, "", Path(scratch))
        _check_digests(version, folder)
        _check_answers(version, folder)


def _check_digests(version: Version, folder: Path) -> None:
    model = folder / "artifacts" / MODEL_FOLDER
    found = digests_of(model, folder / CODE, folder)
    if "digest.thumbnails" in version.tags:
        found.setdefault("thumbnails", MISSING)
    for name, digest in found.items():
        expected = version.tags.get(f"digest.{name}", MISSING)
        if digest != expected:
            raise RegistryError(
                f"{version.title}: {name} has digest {digest}, but was registered with "
                f"{expected}; it was changed since, register the pipeline's output again"
            )


def _check_answers(version: Version, folder: Path) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = quiet_mlflow().pyfunc.load_model(str(folder))
            asked = model.input_example
            answers = [list(ids) for ids in model.predict(asked)["ids"]]
    except Exception as error:  # a model that does not load can fail in any way
        raise RegistryError(
            f"{version.title}: does not load and answer its input example here: {error}; promote "
            "from an installation that its requirements.txt describes"
        ) from error
    if len(answers) != len(asked) or not all(answers):
        raise RegistryError(
            f"{version.title}: expected a ranking for each of {len(asked)} input examples, got "
            f"{[len(answer) for answer in answers]} items"
        )


def digests_of(model: Path, code: Path, files: Path) -> dict[str, str]:
    """Digest of everything a version consists of, from the files themselves.

    Args:
        model: the folder that `SearchService` reads.
        code: the version's Python file.
        files: folder with `evidence.json` and `lineage.json`.
    """
    paths = (model / SERVING, code, files / EVIDENCE, files / LINEAGE)
    digests = {path.name: sha256_of(path) for path in paths if path.is_file()}
    for path in paths:
        digests.setdefault(path.name, MISSING)
    for name, step in STEP_OF.items():
        if name == "thumbnails" and not (model / name).is_dir():
            continue
        try:
            artifact = open_artifact(model / name, step)
            artifact.verify()
        except ArtifactError as error:
            raise RegistryError(f"{name}: {error}") from error
        digests[name if name == "thumbnails" else step] = artifact.manifest.content_digest()
    return digests


def read_evidence(version: Version) -> Evidence | None:
    """What a version was measured to do; None where it was registered without."""
    text = _read(version, EVIDENCE)
    try:
        return None if text is None else Evidence.model_validate_json(text)
    except ValidationError as error:
        raise RegistryError(f"{version.title}: {EVIDENCE} is damaged: {error}") from error


def read_lineage(version: Version) -> dict[str, Summary]:
    """Summaries of the steps that made a version; empty where it was registered without."""
    text = _read(version, LINEAGE)
    try:
        return {} if text is None else _LINEAGE.validate_json(text)
    except ValidationError as error:
        raise RegistryError(f"{version.title}: {LINEAGE} is damaged: {error}") from error


def lineage_json(lineage: Mapping[str, Summary]) -> str:
    """What `read_lineage` reads."""
    return _LINEAGE.dump_json(dict(lineage), indent=2).decode()


def download(version: Version, path: str, to: Path) -> Path:
    """Fetch one file of a version, or everything where `path` is empty."""
    with talking_to_registry(f"reading {path or 'the files'} of {version.title}"):
        uri = f"{version.uri}/{path}".rstrip("/")
        return Path(quiet_mlflow().artifacts.download_artifacts(uri, dst_path=str(to)))


def _read(version: Version, name: str) -> str | None:
    with talking_to_registry(f"listing the files of {version.title}"):
        files = quiet_mlflow().artifacts.list_artifacts(version.uri)
    if name not in {Path(file.path).name for file in files}:
        return None
    with tempfile.TemporaryDirectory() as scratch:
        return download(version, name, Path(scratch)).read_text("utf-8")


def _version(
    row: Any, aliases: Mapping[str, str], rejected: Mapping[str, Mapping[str, str]]
) -> Version:
    # The rows of a search lack their aliases, the model itself has them.
    names = tuple(
        sorted(alias for alias, number in aliases.items() if str(number) == str(row.version))
    )
    number = str(row.version)
    return Version(
        row.name,
        number,
        datetime.fromtimestamp(row.creation_timestamp / 1000, UTC),
        names,
        dict(row.tags),
        row.description or "",
        row.run_id or "",
        row.model_id or "",
        rejected.get(number, {}),
    )


REJECTED = "rejected."
"""Tag of the champion model, followed by a candidate's number. It is there because a reviewer may
write there and the pipeline may not."""


def _rejections(client: Any, config: RegistrationConfig) -> dict[str, dict[str, str]]:
    if not client.search_registered_models(f"name = '{config.champion_model}'"):
        return {}
    tags = client.get_registered_model(config.champion_model).tags
    return {
        key.removeprefix(REJECTED): json.loads(value)
        for key, value in tags.items()
        if key.startswith(REJECTED)
    }

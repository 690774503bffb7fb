"""Versions of the registered models: list, find, register.

The pipeline writes versions of the candidate model only; what reviewers do, which creates versions
of the champion model, is in `acts`. A version's files are read by `version_files`.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from product1m.errors import RegistryError, printable
from product1m.registry.roles import CHALLENGER, CHAMPION, ModelNames
from product1m.telemetry.mlflow_client import registry_mlflow, talking_to_registry
from product1m.telemetry.mlflow_files import sqlite_path

LINEAGE, GATE, CARD = "lineage.json", "gate.json", "model_card.md"
PAGE, PICTURE = "reviewer.html", "regressions.jpg"
DIGESTS = "digests.json"
"""Files of a version beside its model and `evidence.json`; the last one names the digest of every
part of the model and of every artifact that it was made from."""
PAGES = "registration"
"""Folder of a run's files with the page: MLflow shows a run's file in the browser, and lets one of
a version only be downloaded."""
FILES_DIGEST = "digest.files.json"
"""Tag: digest of the list of all files of a candidate, with theirs."""
INPUTS_DIGEST = "digest.inputs"
"""Tag: one digest of the digests of all artifacts that a version was made from."""
NONE = "none"
STATE, CLAIMED, DONE, LOST, ABANDONED = "champion_state", "claimed", "done", "lost", "abandoned"
"""Tag of a champion version and its values: not champion yet, was or is champion, lost a race,
never finished."""
RECORD_OF = "record_of_version"
"""Tag of a champion version: its own number. MLflow copies a version's tags, but not its number."""
ACTS = ("promotion", "rollback")
"""Values of the tag `act` of a version that a reviewer's command made."""
MAX_CHARS = 5000
"""Width of the description's column in MLflow's database."""
REGISTRATION, UNFINISHED, FINISHED = "registration", "unfinished", "finished"
"""Tag of a candidate version and its values: whether the artifact of its step is complete."""
REJECTED = "rejected."
"""Tag of the champion model, followed by the id of a candidate's logged model, or by its number if
it has none. It is on that model because reviewers may write there and the pipeline may not."""


@dataclass(frozen=True)
class ModelVersion:
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
    warning: str = ""
    """What is wrong with how a version of the champion model came to be; empty if nothing is."""

    @property
    def title(self) -> str:
        """Model and number."""
        return f"{self.model} version {self.number}"

    @property
    def uri(self) -> str:
        """The version's address at MLflow."""
        return f"models:/{self.model}/{self.number}"

    @property
    def promote_command(self) -> str:
        """What a reviewer types to promote this candidate."""
        is_sample = self.tags.get("sample_data") != "false"
        options = " --rules sample --override-sample" if is_sample else ""
        return f'product1m registry promote --version {self.number}{options} --reason "…"'


def register(model_uri: str, name: str, tags: Mapping[str, str], card: str) -> str:
    """Make a logged model the newest version of `name` and its challenger; returns the number.

    The card becomes the description, its picture shown from the version's files. Its registration
    is unfinished until `finish_registration`.
    """
    model_id = model_uri.removeprefix("models:/")
    with talking_to_registry(f"registering a version of {name}") as client:
        ensure_model(client, name)
        run = client.get_run(client.get_logged_model(model_id).source_run_id)
        version = client.create_model_version(
            name,
            model_uri,
            run.info.run_id,
            tags={**tags, REGISTRATION: UNFINISHED},
            model_id=model_id,
        ).version
        client.update_model_version(name, version, page_text(card, name, str(version), run.info))
        client.set_registered_model_alias(name, CHALLENGER, version)
        registered = json.dumps([{"name": name, "version": str(version)}])
        client.set_logged_model_tags(model_id, {"mlflow.modelVersions": registered})
    return str(version)


def ensure_model(client: Any, name: str) -> None:
    """Create a registered model if it does not exist.

    Looks first: creating needs a permission that an account with the fewest rights lacks.
    """
    if client.search_registered_models(f"name = '{name}'"):
        return
    try:
        client.create_registered_model(name)
    except registry_mlflow().exceptions.MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":  # someone else was faster
            raise


def finish_registration(name: str, number: str) -> None:
    """Note at a version that the artifact of its registration is complete."""
    with talking_to_registry(f"finishing the registration of {name}") as client:
        client.set_model_version_tag(name, number, REGISTRATION, FINISHED)


def page_text(card: str, name: str, number: str, run: Any) -> str:
    """A card whose picture is a version's file, and whose page opens among the files of `run`.

    Its commands name the version, whose number was unknown when the card was written.

    MLflow's page strips pictures embedded as data URIs and shows those that its server holds.
    """
    picture = f"model-versions/get-artifact?path={PICTURE}&name={name}&version={number}"
    page = f"#/experiments/{run.experiment_id}/runs/{run.run_id}/artifacts/{PAGES}/{PAGE}"
    linked = card.replace(f"]({PICTURE})", f"]({picture})").replace(f"]({PAGE})", f"]({page})")
    for command in ("--version", "compare champion"):
        linked = linked.replace(f"{command} N", f"{command} {number}")
    return shorten(linked)


def shorten(card: str) -> str:
    """Cut a card that does not fit MLflow's column, at the end of a line."""
    if len(card) <= MAX_CHARS:
        return card
    more = "\n\n… cut; the rest is in `reviewer.html` and `model_card.md` among the files.\n"
    kept = card[: MAX_CHARS - len(more)]
    return kept[: kept.rfind("\n")] + more


def list_versions(name: str, models: ModelNames | None = None) -> list[ModelVersion]:
    """Every version of a registered model, newest first; none if there is no such model.

    With `models`, versions of the candidate model show who rejected them, and those of the champion
    model whether a reviewer's command made them.
    """
    with talking_to_registry(f"listing {name}") as client:
        if not client.search_registered_models(f"name = '{name}'"):
            return []
        aliases = client.get_registered_model(name).aliases
        rows = client.search_model_versions(f"name = '{name}'")
        with_rejections = models is not None and name == models.candidate
        rejected = _rejections(client, models.champion) if models and with_rejections else {}
        versions = [_version(row, aliases, rejected) for row in rows]
        if models and name == models.champion:
            versions = [
                replace(version, warning=warning(version, versions)) for version in versions
            ]
    return sorted(versions, key=lambda version: -int(version.number))


def show(name: str, which: str, models: ModelNames | None = None) -> ModelVersion:
    """One version by number or alias; the RegistryError lists the versions that exist."""
    versions = list_versions(name, models)
    for version in versions:
        if which == version.number or which in version.aliases:
            return version
    known = ", ".join(" ".join([version.number, *version.aliases]) for version in versions)
    raise RegistryError(f"{name}: no version {which!r}; it has {known or 'no versions'}")


def find(reference: str, models: ModelNames) -> ModelVersion:
    """A version by a short name.

    `champion` is the champion model's, `MODEL/7` or `MODEL/alias` any model's, anything else a
    number or an alias of the candidate model.
    """
    model, slash, which = reference.rpartition("/")
    if slash:
        return show(model, which, models)
    name = models.champion if reference == CHAMPION else models.candidate
    return show(name, reference, models)


def is_registered(model: str) -> bool:
    """Whether there is a version of an address like `models:/product1m@champion`.

    True for a folder or a numbered version: whoever loads it says what is missing.
    """
    name, _, alias = model.removeprefix("models:/").partition("@")
    if not alias:
        return True
    database = sqlite_path(os.environ.get("MLFLOW_TRACKING_URI", ""))
    is_empty = database is not None and not database.exists()
    return not is_empty and any(alias in version.aliases for version in list_versions(name))


def champion_among(versions: Iterable[ModelVersion]) -> ModelVersion | None:
    """The version that the alias `champion` names; None if there is none."""
    return next((version for version in versions if CHAMPION in version.aliases), None)


def is_recorded(version: ModelVersion) -> bool:
    """Whether a reviewer's command made this version of the champion model.

    MLflow's page can copy versions too; a copy has the tags of another number.
    """
    tags = version.tags
    own = tags.get(RECORD_OF) == version.number
    return own and tags.get("act") in ACTS and tags.get(STATE) == DONE


def warning(version: ModelVersion, versions: Iterable[ModelVersion]) -> str:
    """What is wrong with how a version came to be, in capitals; empty if nothing is.

    Args:
        version: of the champion model.
        versions: all of the champion model.
    """
    unfinished = version.tags.get(STATE) in (CLAIMED, LOST, ABANDONED)
    if not is_recorded(version):
        own = version.tags.get(RECORD_OF) == version.number
        return "" if unfinished and own else "NOT MADE BY PROMOTE"
    newest = max(int(other.number) for other in versions if is_recorded(other))
    moved = CHAMPION in version.aliases and int(version.number) != newest
    return "ALIAS MOVED BY HAND" if moved else ""


def rejection_key(version: ModelVersion) -> str:
    """Tag of the champion model for the rejection of a candidate."""
    return f"{REJECTED}{version.model_id or version.number}"


def _version(
    row: Any, aliases: Mapping[str, str], rejected: Mapping[str, Mapping[str, str]]
) -> ModelVersion:
    # The rows of a search lack their aliases, the model itself has them.
    names = tuple(
        sorted(alias for alias, number in aliases.items() if str(number) == str(row.version))
    )
    version = ModelVersion(
        row.name,
        str(row.version),
        datetime.fromtimestamp(row.creation_timestamp / 1000, UTC),
        names,
        {name: printable(text, kept="") for name, text in row.tags.items()},
        printable(row.description or ""),
        row.run_id or "",
        row.model_id or _logged_model(row.source),
    )
    return replace(version, rejection=_rejection_of(version, rejected))


def _logged_model(source: str | None) -> str:
    """Id of the logged model that a version shows; MLflow's search leaves it out."""
    logged = re.fullmatch(r"models:/(m-\w+)", source or "")
    return logged[1] if logged else ""


def _rejection_of(
    version: ModelVersion, rejected: Mapping[str, Mapping[str, str]]
) -> Mapping[str, str]:
    """Who rejected a candidate: its files, or the version that had its number at that time.

    A candidate model that was renamed or deleted and made again counts from 1 again.
    """
    digest = version.tags.get(FILES_DIGEST)
    for key, record in rejected.items():
        files = record.get("files")
        if (version.model_id and key == version.model_id) or (digest and digest == files):
            return record
    record = rejected.get(version.number, {})
    meant = record and datetime.fromisoformat(record["at"]) > version.created
    return record if meant else {}


def _rejections(client: Any, champion_model: str) -> dict[str, dict[str, str]]:
    if not client.search_registered_models(f"name = '{champion_model}'"):
        return {}
    tags = client.get_registered_model(champion_model).tags
    return {
        key.removeprefix(REJECTED): json.loads(value)
        for key, value in tags.items()
        if key.startswith(REJECTED)
    }

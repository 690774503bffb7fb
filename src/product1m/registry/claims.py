"""How a version becomes champion: one at a time, and completely or not at all.

Every change of the champion is a new version of the champion model, and MLflow's database assigns
each version number once. The number replaces the compare-and-set that MLflow's aliases lack: if the
newest version was 6, the process that then gets 7 was alone, and the one that gets 8 was not
(docs/decisions/0006-promotion-without-a-lock.md).

A process may be killed between any two of its requests. The next process completes a change that
has moved the alias, and abandons one that has not.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from product1m.errors import RegistryError
from product1m.registry.roles import CHAMPION, ModelNames
from product1m.registry.versions import (
    ABANDONED,
    CLAIMED,
    DONE,
    LOST,
    NONE,
    RECORD_OF,
    STATE,
    ModelVersion,
    champion_among,
    ensure_model,
    is_recorded,
    list_versions,
    shorten,
    show,
    warning,
)
from product1m.telemetry.mlflow_client import talking_to_registry
from product1m.telemetry.processes import has_ended, this_process

logger = logging.getLogger(__name__)

CLAIM_LASTS = timedelta(minutes=10)
"""After this time an unfinished claim of another machine counts as dead; one takes seconds
(ours)."""
PROCESS = "claimed_by_process"
"""Tag: host, id and start of the process that claims, so that the same machine can see that it has
ended."""


@dataclass(frozen=True)
class Standing:
    """The champion model before an act."""

    newest: int
    """Number of the newest version, 0 if there is none."""
    champion: ModelVersion | None
    """The version that the alias names, no matter who moved it."""
    recorded: ModelVersion | None
    """The last champion that `promote` or `rollback` made; candidates are compared with it."""

    @property
    def number(self) -> str:
        """Version number of the champion."""
        return self.champion.number if self.champion else NONE


@dataclass(frozen=True)
class Source:
    """What a new version of the champion model shows: logged files and a description."""

    uri: str
    run_id: str
    model_id: str
    description: str
    tags: Mapping[str, str]


def read_standing(models: ModelNames) -> Standing:
    """The state of the champion model, after completing or abandoning what a dead process left.

    RegistryError while someone else changes the champion.
    """
    versions = list_versions(models.champion)
    if versions and versions[0].tags.get(STATE) == CLAIMED:
        _settle(versions[0])
        versions = list_versions(models.champion)
    champion = champion_among(versions)
    if champion and warning(champion, versions):
        logger.warning(
            "%s is champion, but neither promote nor rollback made it so; look at it with "
            "`product1m registry show champion`", champion.title,
        )  # fmt: skip
    recorded = next((version for version in versions if is_recorded(version)), None)
    return Standing(int(versions[0].number) if versions else 0, champion, recorded)


def claim(
    source: Source, models: ModelNames, standing: Standing, record: Mapping[str, str]
) -> ModelVersion:
    """Claim the next version number for `source`, and move the alias if it was next."""
    model, expected = models.champion, standing.newest + 1
    state = {STATE: CLAIMED, RECORD_OF: str(expected), PROCESS: this_process()}
    tags = {**source.tags, **record, **state}
    with talking_to_registry(f"making a champion of {model}") as client:
        ensure_model(client, model)
        created = client.create_model_version(
            model, source.uri, source.run_id or None, tags=tags, model_id=source.model_id or None
        )
        claimed = show(model, str(created.version))
        if int(claimed.number) != expected:
            _set_state(claimed, LOST)
            raise RegistryError(_overtaken(model, expected, claimed.number))
        client.update_model_version(model, claimed.number, shorten(source.description))
        _require_unchanged(claimed, standing.number)
        client.set_registered_model_alias(model, CHAMPION, claimed.number)
    _set_state(claimed, DONE)
    return show(model, claimed.number)


def _settle(claimed: ModelVersion) -> None:
    """Finish a claim that moved the alias, give up one whose process is gone.

    RegistryError if it may still be at work.
    """
    if CHAMPION in claimed.aliases:
        # Nothing but this tag was left to do, and to do it twice changes nothing.
        logger.warning("%s: its promotion ended before its last step; finished now", claimed.title)
        _set_state(claimed, DONE)
        return
    age = datetime.now(UTC) - claimed.created
    if age < CLAIM_LASTS and not has_ended(claimed.tags.get(PROCESS, "")):
        raise RegistryError(
            f"{claimed.title} is being made champion by {claimed.tags.get('by', 'somebody')} since "
            f"{claimed.created:%H:%M:%S} UTC; look at it and try again; if that promotion died, in "
            f"{CLAIM_LASTS.seconds // 60} minutes"
        )
    logger.warning("%s: its promotion never ended; marked as abandoned", claimed.title)
    _set_state(claimed, ABANDONED)


def _require_unchanged(claimed: ModelVersion, previous: str) -> None:
    """RegistryError if someone moved the alias, or marked this claim as abandoned."""
    now = list_versions(claimed.model)
    current = champion_among(now)
    champion = current.number if current else NONE
    own = next(version for version in now if version.number == claimed.number)
    if champion != previous or own.tags.get(STATE) != CLAIMED:
        _set_state(claimed, LOST)
        raise RegistryError(
            f"{claimed.model}: the champion was version {previous} and is {champion} now; nothing "
            "was changed, look at it and decide again"
        )


def _overtaken(model: str, winner: int, number: str) -> str:
    first = next((v for v in list_versions(model) if v.number == str(winner)), None)
    if first is None:
        return f"{model}: version {winner} was created and deleted in the meantime; try again"
    return (
        f"someone else was faster: {first.title} ({first.tags.get('act', 'change')} by "
        f"{first.tags.get('by', 'somebody')}: {first.tags.get('reason', 'no reason given')}); this "
        f"one changed nothing, its copy {model} version {number} is tagged {LOST}; look at the new "
        "champion and decide again"
    )


def _set_state(version: ModelVersion, state: str) -> None:
    with talking_to_registry(f"tagging {version.title}") as client:
        client.set_model_version_tag(version.model, version.number, STATE, state)

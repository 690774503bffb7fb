"""What a reviewer does: promote, roll back, reject. Each is recorded; MLflow records no user.

Every change of the champion is a new version of the champion model, and MLflow's database assigns
each version number once. The number replaces the compare-and-set that MLflow's aliases lack: if the
newest version was 6, whoever then gets 7 was alone, and whoever gets 8 was not
(docs/decisions/0006-promotion-without-a-lock.md).
"""

import getpass
import json
import logging
import os
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Literal

from product1m.errors import RegistryError
from product1m.registry.gate import Gate, decide
from product1m.registry.roles import ModelNames
from product1m.registry.version_files import as_champion, require_evidence, verify_version
from product1m.registry.versions import (
    CHAMPION,
    NONE,
    REJECTED,
    ModelVersion,
    champion_among,
    ensure_model,
    list_versions,
    page_text,
    show,
)
from product1m.telemetry.mlflow_client import talking_to_registry

logger = logging.getLogger(__name__)

Objection = Literal["sample", "gate", "rejection"]
"""Objections to a candidate, each with its own override."""
STATE, CLAIMED, DONE, LOST, ABANDONED = "champion_state", "claimed", "done", "lost", "abandoned"
"""Tag of a champion version and its values: not champion yet, was or is champion, lost a race,
never finished."""
CLAIM_LASTS = timedelta(minutes=10)
"""After this time an unfinished promotion counts as dead; one takes seconds (ours)."""
_RECORD = (
    "act", "by", "at", "reason", "promoted_from", "restored", "previous_champion",
    "falls_back_to", "promotion_gate", STATE,
)  # fmt: skip
_OVERRIDE = "override_"


def promote(
    which: str,
    reason: str,
    models: ModelNames,
    by: str = "",
    overrides: Collection[Objection] = (),
) -> ModelVersion:
    """Copy a candidate to the champion model and make it the champion.

    First evaluates the gate again, checks every file, and lets the model answer its input example.

    Args:
        which: number or alias of a candidate version.
        reason: why; recorded, also for the overrides.
        models: names of the two models; the rules are those the version was registered under.
        by: who; by default the MLflow user or the account's name.
        overrides: objections to ignore; recorded with their text.

    Raises:
        RegistryError: an objection that is not overridden, or another reviewer was faster.
    """
    by = _named(by, reason)
    candidate = show(models.candidate, which, models)
    evidence = require_evidence(candidate)
    newest, champion = _standing(models)
    gate = decide(evidence, as_champion(champion) if champion else None)
    objections = _objections(candidate, gate)
    _require_overridden(candidate, objections, overrides)
    verify_version(candidate)
    previous = champion.number if champion else NONE
    record = {
        "act": "promotion",
        "by": by,
        "at": _now(),
        "reason": reason.strip(),
        "promoted_from": f"{candidate.model}/{candidate.number}",
        "previous_champion": previous,
        "falls_back_to": previous,
        "promotion_gate": gate.verdict,
    }
    record |= {f"{_OVERRIDE}{kind}": "; ".join(lines) for kind, lines in objections.items()}
    return _crown(candidate, models, newest, previous, record)


def rollback(reason: str, models: ModelNames, by: str = "", to: str = "") -> ModelVersion:
    """Make the previous champion, or version `to`, the champion again.

    It is copied to a new version, so that the numbers stay the order of the champions.
    """
    by = _named(by, reason)
    newest, champion = _standing(models)
    if champion is None:
        raise RegistryError(f"{models.champion}: has no champion to roll back")
    target = to or champion.tags.get("falls_back_to", NONE)
    if target == NONE:
        raise RegistryError(
            f"{champion.title} has no previous champion; name a version to go back to"
        )
    restored = show(models.champion, target)
    if restored.number == champion.number:
        raise RegistryError(f"{champion.title} is the champion already")
    if restored.tags.get(STATE) in (LOST, ABANDONED, CLAIMED):
        raise RegistryError(f"{restored.title} was never champion ({restored.tags[STATE]})")
    verify_version(restored)
    record = {
        "act": "rollback",
        "by": by,
        "at": _now(),
        "reason": reason.strip(),
        "promoted_from": restored.tags.get("promoted_from", NONE),
        "restored": restored.number,
        "previous_champion": champion.number,
        # A second rollback goes one further back, not forth to what was just rolled back.
        "falls_back_to": restored.tags.get("falls_back_to", NONE),
        "promotion_gate": restored.tags.get("promotion_gate", NONE),
    }
    return _crown(restored, models, newest, champion.number, record)


def reject(which: str, reason: str, models: ModelNames, by: str = "") -> ModelVersion:
    """Reject a candidate: it cannot be promoted without an override.

    Recorded at the champion model, where reviewers may write and the pipeline may not, and on the
    candidate's own page if the reviewer may write there.
    """
    by = _named(by, reason)
    candidate = show(models.candidate, which, models)
    record = {"by": by, "at": _now(), "reason": reason.strip()}
    with talking_to_registry(f"rejecting {candidate.title}") as client:
        ensure_model(client, models.champion)
        client.set_registered_model_tag(
            models.champion, f"{REJECTED}{candidate.number}", json.dumps(record)
        )
    try:
        with talking_to_registry(f"tagging {candidate.title}") as client:
            for key, value in record.items():
                client.set_model_version_tag(
                    candidate.model, candidate.number, f"rejected_{key}", value
                )
    except RegistryError as error:
        logger.info("rejected; the candidate's own page does not show it: %s", error)
    return show(candidate.model, candidate.number, models)


def _objections(candidate: ModelVersion, gate: Gate) -> dict[Objection, list[str]]:
    failed = [
        f"{rule.name}: expected {rule.expected}, found {rule.found}" for rule in gate.failures()
    ]
    objections: dict[Objection, list[str]] = {}
    if candidate.tags.get("sample_data") != "false":
        objections["sample"] = ["it was trained on sample data"]
    if failed:
        objections["gate"] = failed
    if candidate.rejection:
        rejection = candidate.rejection
        objections["rejection"] = [
            f"{rejection['by']} rejected it at {rejection['at']}: {rejection['reason']}"
        ]
    return objections


def _require_overridden(
    candidate: ModelVersion,
    objections: Mapping[Objection, list[str]],
    overrides: Collection[Objection],
) -> None:
    standing = [kind for kind in objections if kind not in overrides]
    if standing:
        lines = "\n  ".join(line for kind in standing for line in objections[kind])
        flags = " ".join(f"--override-{kind}" for kind in standing)
        raise RegistryError(
            f"{candidate.title} cannot be promoted:\n  {lines}\n"
            f"To promote it anyway, add {flags}; both are recorded with the reason"
        )


def _standing(models: ModelNames) -> tuple[int, ModelVersion | None]:
    """Newest version number of the champion model, and the champion.

    RegistryError while someone else changes the champion.
    """
    versions = list_versions(models.champion)
    if not versions:
        return 0, None
    newest = versions[0]
    if newest.tags.get(STATE) == CLAIMED:
        _require_dead(newest)
    return int(newest.number), champion_among(versions)


def _require_dead(claimed: ModelVersion) -> None:
    age = datetime.now(UTC) - claimed.created
    if age < CLAIM_LASTS:
        raise RegistryError(
            f"{claimed.title} is being made champion by {claimed.tags.get('by', 'somebody')} since "
            f"{claimed.created:%H:%M:%S} UTC; look at it and try again; if that promotion died, in "
            f"{CLAIM_LASTS.seconds // 60} minutes"
        )
    logger.warning("%s: its promotion never ended; marked as abandoned", claimed.title)
    if CHAMPION not in claimed.aliases:
        _set_state(claimed, ABANDONED)


def _crown(
    source: ModelVersion,
    models: ModelNames,
    newest: int,
    previous: str,
    record: Mapping[str, str],
) -> ModelVersion:
    """Claim the next version number with a copy of `source`, and move the alias if it was next.

    `newest` and `previous` are the numbers of the newest version and of the champion at the time
    of the decision.
    """
    model = models.champion
    kept = {
        key: value
        for key, value in source.tags.items()
        if key not in _RECORD and not key.startswith((_OVERRIDE, "rejected_"))
    }
    with talking_to_registry(f"making {source.title} the champion of {model}") as client:
        ensure_model(client, model)
        created = client.create_model_version(
            model,
            source.uri,
            source.run_id or None,
            tags={**kept, **record, STATE: CLAIMED},
            model_id=source.model_id or None,
        )
        number = str(created.version)
        claimed = show(model, number)
        if int(number) != newest + 1:
            _set_state(claimed, LOST)
            raise RegistryError(_overtaken(model, newest + 1, number))
        client.update_model_version(model, number, page_text(source.description, model, number))
        _require_unchanged(claimed, previous)
        client.set_registered_model_alias(model, CHAMPION, number)
    _set_state(claimed, DONE)
    return show(model, number)


def _require_unchanged(claimed: ModelVersion, previous: str) -> None:
    """RegistryError if someone moved the alias, or marked this claim as abandoned."""
    now = list_versions(claimed.model)
    found = champion_among(now)
    champion = found.number if found else NONE
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
        return f"{model}: version {winner} was created and deleted meanwhile; try again"
    return (
        f"someone else was faster: {first.title} ({first.tags.get('act', 'change')} by "
        f"{first.tags.get('by', 'somebody')}: {first.tags.get('reason', 'no reason given')}); this "
        f"one changed nothing, its copy {model} version {number} is tagged {LOST}; look at the new "
        "champion and decide again"
    )


def _set_state(version: ModelVersion, state: str) -> None:
    with talking_to_registry(f"tagging {version.title}") as client:
        client.set_model_version_tag(version.model, version.number, STATE, state)


def _named(by: str, reason: str) -> str:
    if not reason.strip():
        raise RegistryError("a reason is needed; nothing else records why this was done")
    return by.strip() or os.environ.get("MLFLOW_TRACKING_USERNAME") or getpass.getuser()


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

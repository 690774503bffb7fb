"""What a reviewer does: promote, roll back, reject. Each is recorded; MLflow records no user."""

import getpass
import json
import logging
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

from product1m.errors import RegistryError
from product1m.registry.candidate_files import CandidateFiles, fetch_candidate
from product1m.registry.champion_files import Promotion, make_champion
from product1m.registry.claims import Source, Standing, claim, read_standing
from product1m.registry.evidence import Evidence
from product1m.registry.gate import Gate, decide
from product1m.registry.leftovers import remove_left_by_promotions
from product1m.registry.loading import fetch_signed
from product1m.registry.roles import ModelNames
from product1m.registry.rules import ReviewRules
from product1m.registry.signing import Signer
from product1m.registry.version_files import as_champion
from product1m.registry.versions import (
    ABANDONED,
    CLAIMED,
    FILES_DIGEST,
    LOST,
    NONE,
    STATE,
    ModelVersion,
    ensure_model,
    list_versions,
    rejection_key,
    show,
    warning,
)
from product1m.serving.signatures import Trust
from product1m.storage.scratch import scratch_folder, temporary_files_in
from product1m.telemetry.mlflow_client import talking_to_registry

logger = logging.getLogger(__name__)

Objection = Literal["sample", "gate", "rejection"]
"""Objections to a candidate, each with its own override."""
Measure = Callable[[CandidateFiles, ModelVersion | None], Evidence]
"""Measures a candidate, and the champion if there is one, on the reviewer's machine."""
_OVERRIDE = "override_"
_ACT_TAGS = (
    "act", "by", "at", "reason", "promoted_from", "restored", "previous_champion",
    "falls_back_to", "promotion_gate",
)  # fmt: skip
"""Tags that say how a version became champion; the next act writes its own."""


@dataclass(frozen=True)
class Review:
    """What a reviewer brings along to a promotion."""

    reason: str
    """Why; recorded, also for the overrides."""
    rules: ReviewRules
    signer: Signer
    by: str = ""
    """Who; by default the MLflow user or the account's name."""
    overrides: Collection[Objection] = ()
    """Objections to ignore; recorded with their text."""
    measure: Measure | None = None
    """None to believe the figures that the pipeline measured."""


def promote(which: str, models: ModelNames, review: Review) -> ModelVersion:
    """Copy a candidate to the champion model, signed, and make it the champion.

    Checks every file, evaluates the gate with the reviewer's rules, and lets the model answer its
    input example in a process without credentials.

    Args:
        which: number or alias of a candidate version.
        models: names of the two models.
        review: reason, rules, key and overrides.

    Raises:
        RegistryError: an objection that is not overridden, a file that was changed, or another
            reviewer was faster.
    """
    by = _named(review.by, review.reason)
    candidate = show(models.candidate, which, models)
    standing = read_standing(models)
    remove_left_by_promotions()
    with scratch_folder() as scratch, temporary_files_in(scratch):
        files = fetch_candidate(candidate, scratch)
        measured = review.measure(files, standing.recorded) if review.measure else None
        gate = _decide(files, measured, standing, review.rules)
        against = objections(candidate, files.evidence, gate)
        _require_overridden(candidate, against, review.overrides)
        record = {
            "act": "promotion",
            "by": by,
            "at": _now(),
            "reason": review.reason.strip(),
            "promoted_from": f"{candidate.model}/{candidate.number}",
            "previous_champion": standing.number,
            "falls_back_to": standing.recorded.number if standing.recorded else NONE,
            "promotion_gate": gate.verdict,
            "figures": "measured by the reviewer" if measured else "measured by the pipeline",
            **{f"{_OVERRIDE}{kind}": "; ".join(lines) for kind, lines in against.items()},
        }
        promotion = Promotion(candidate, files, gate, "sample" in against, record, measured)
        source = make_champion(promotion, review.signer)
    return claim(source, models, standing, record)


def rollback(
    reason: str, models: ModelNames, trust: Trust, by: str = "", to: str = ""
) -> ModelVersion:
    """Make the previous champion, or version `to`, the champion again.

    It is copied to a new version, so that the numbers stay the order of the champions. Raises
    RegistryError unless every byte of it is what a trusted key signed.
    """
    by = _named(by, reason)
    standing = read_standing(models)
    if standing.champion is None:
        raise RegistryError(f"{models.champion}: has no champion to roll back")
    restored = _restored(models, standing, standing.champion, to)
    with scratch_folder() as scratch:
        fetch_signed(restored, trust, scratch)
    record = {
        "act": "rollback",
        "by": by,
        "at": _now(),
        "reason": reason.strip(),
        "promoted_from": restored.tags.get("promoted_from", NONE),
        "restored": restored.number,
        "previous_champion": standing.number,
        # A second rollback goes one champion further back, not to the one just rolled back.
        "falls_back_to": restored.tags.get("falls_back_to", NONE),
        "promotion_gate": restored.tags.get("promotion_gate", NONE),
    }
    kept = {
        key: value
        for key, value in restored.tags.items()
        if key not in _ACT_TAGS and not key.startswith(_OVERRIDE)
    }
    uri = f"models:/{restored.model_id}" if restored.model_id else restored.uri
    source = Source(uri, restored.run_id, restored.model_id, restored.description, kept)
    return claim(source, models, standing, record)


def _restored(
    models: ModelNames, standing: Standing, champion: ModelVersion, to: str
) -> ModelVersion:
    """The version to go back to."""
    if not warning(champion, list_versions(models.champion)):
        previous = champion.tags.get("falls_back_to", NONE)
    else:  # it was not made by a command, so nothing says what was there before
        previous = standing.recorded.number if standing.recorded else NONE
    target = to or previous
    if target == NONE:
        raise RegistryError(
            f"{champion.title} has no previous champion; name the version to restore with --to"
        )
    restored = show(models.champion, target)
    if restored.number == champion.number:
        raise RegistryError(f"{champion.title} is the champion already")
    if restored.tags.get(STATE) in (LOST, ABANDONED, CLAIMED):
        raise RegistryError(f"{restored.title} was never champion ({restored.tags[STATE]})")
    return restored


def _decide(
    files: CandidateFiles, measured: Evidence | None, standing: Standing, rules: ReviewRules
) -> Gate:
    champion = as_champion(standing.recorded) if standing.recorded else None
    if champion and measured:  # only what was measured here counts, of both
        champion = replace(champion, evidence=None)
    return decide(rules.apply(measured or files.evidence), champion)


def reject(which: str, reason: str, models: ModelNames, by: str = "") -> ModelVersion:
    """Reject a candidate: it cannot be promoted without an override.

    Recorded at the champion model, where reviewers may write and the pipeline may not, and on the
    candidate's own page if the reviewer may write there.
    """
    by = _named(by, reason)
    candidate = show(models.candidate, which, models)
    record = {"by": by, "at": _now(), "reason": reason.strip()}
    what = {"number": candidate.number, "files": candidate.tags.get(FILES_DIGEST, "")}
    with talking_to_registry(f"rejecting {candidate.title}") as client:
        ensure_model(client, models.champion)
        client.set_registered_model_tag(
            models.champion, rejection_key(candidate), json.dumps(record | what)
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


def objections(
    candidate: ModelVersion, evidence: Evidence, gate: Gate
) -> dict[Objection, list[str]]:
    """Objections to a promotion, each with its reasons."""
    failed = [
        f"{rule.name}: expected {rule.expected}, found {rule.found}" for rule in gate.failures()
    ]
    reasons: dict[Objection, list[str]] = {}
    if candidate.tags.get("sample_data") != "false" or evidence.rules.sample_data:
        reasons["sample"] = ["it was trained on sample data"]
    if failed:
        reasons["gate"] = failed
    if candidate.rejection:
        rejection = candidate.rejection
        reasons["rejection"] = [
            f"{rejection['by']} rejected it at {rejection['at']}: {rejection['reason']}"
        ]
    return reasons


def _require_overridden(
    candidate: ModelVersion,
    against: Mapping[Objection, list[str]],
    overrides: Collection[Objection],
) -> None:
    kinds = [kind for kind in against if kind not in overrides]
    if kinds:
        lines = "\n  ".join(line for kind in kinds for line in against[kind])
        flags = " ".join(f"--override-{kind}" for kind in kinds)
        rules = ""
        if {"sample", "gate"} <= set(kinds):
            rules = "\nTo judge it by the rules of the sample, add --rules sample"
        raise RegistryError(
            f"{candidate.title} cannot be promoted:\n  {lines}\n"
            f"To promote it anyway, add {flags}, which is recorded with your reason{rules}"
        )


def _named(by: str, reason: str) -> str:
    if not reason.strip():
        raise RegistryError("a reason is needed; nothing else records why this was done")
    return by.strip() or os.environ.get("MLFLOW_TRACKING_USERNAME") or getpass.getuser()


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

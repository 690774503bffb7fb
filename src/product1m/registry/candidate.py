"""A candidate version: what is written about it, under which tags it is registered."""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from product1m.artifacts.folder import Artifact
from product1m.artifacts.manifest import Summary
from product1m.artifacts.model_parts import THUMBNAILS
from product1m.data.items import ItemTable
from product1m.errors import RegistryError
from product1m.evaluation.artifact_files import read_metrics
from product1m.registry.candidate_files import CandidateFiles, fetch_candidate
from product1m.registry.card import Subject, write_card, write_page
from product1m.registry.champion import Opponent
from product1m.registry.evidence import EVIDENCE, Evidence, Rules
from product1m.registry.gate import Gate, rivalry
from product1m.registry.pictures import draw_cases, worst_cases
from product1m.registry.roles import ModelNames
from product1m.registry.version_files import digests_of, lineage_json, write_digests
from product1m.registry.versions import (
    CARD,
    DIGESTS,
    FILES_DIGEST,
    GATE,
    INPUTS_DIGEST,
    LINEAGE,
    NONE,
    PAGE,
    PICTURE,
    REGISTRATION,
    UNFINISHED,
    ModelVersion,
    champion_among,
    list_versions,
)
from product1m.serving.model_folder import CODE
from product1m.storage.base import sha256_of
from product1m.telemetry.mlflow_client import registry_mlflow, talking_to_registry
from product1m.telemetry.pipeline_runs import ATTEMPT_TAGS, LAST_STEP
from product1m.telemetry.provenance import git_revision, pipeline_run

logger = logging.getLogger(__name__)
WRITTEN = (EVIDENCE, LINEAGE, GATE, CARD, PAGE, DIGESTS, PICTURE)
"""Files of a version that its registration wrote beside the model; the last one may be missing."""


def describe_candidate(
    inputs: Mapping[str, Artifact],
    lineage: Mapping[str, Summary],
    evidence: Evidence,
    gate: Gate,
    opponent: Opponent,
    model: Path,
) -> Subject:
    """Everything that card and page are written from; needs an active MLflow run."""
    champion = opponent.champion
    thumbnails = model / THUMBNAILS
    return Subject(
        lineage=lineage,
        scores=read_metrics(inputs["evaluation"]),
        evidence=evidence,
        gate=gate,
        champion=champion,
        champion_lineage=opponent.lineage,
        provenance=_provenance(),
        cases=worst_cases(
            evidence,
            rivalry(evidence, champion) if champion else None,
            ItemTable(inputs["queries"]),
            ItemTable(inputs["gallery"]),
            evidence.rules.num_pictured_queries,
        ),
        thumbnails_mib=sum(path.stat().st_size for path in thumbnails.glob("*")) / 2**20,
    )


def _provenance() -> dict[str, str]:
    return {
        "git_revision": git_revision(),
        "pipeline_run": pipeline_run(),
        "mlflow_run": registry_mlflow().active_run().info.run_id,
    }


def adopt_unfinished(
    names: ModelNames, digests: Mapping[str, str], rules: Rules, scratch: Path
) -> tuple[ModelVersion, CandidateFiles] | None:
    """A version of the same inputs that a killed registration made, with its files; None without.

    Its gate must be what would be decided now: the same rules against the same champion.

    Args:
        names: of the two models.
        digests: of the inputs and all that they were made from, by lineage key.
        rules: of this registration.
        scratch: a new folder for the files.
    """
    champion = champion_among(list_versions(names.champion))
    expected = {
        INPUTS_DIGEST: _inputs_digest(digests),
        "gate_champion": champion.number if champion else NONE,
    }
    for version in list_versions(names.candidate):
        if expected.items() <= version.tags.items() and _is_kept(version):
            scratch.mkdir()
            try:
                files = fetch_candidate(version, scratch)
            except RegistryError as error:
                logger.warning("%s; registering it again", error)
                return None
            return (version, files) if files.evidence.rules == rules else None
    return None


def _is_kept(version: ModelVersion) -> bool:
    """Whether the registration of a version never ended, or whoever starts it again cannot know.

    A registration can be complete while its pipeline does not know it. If the step is started again
    for the same output folder or pipeline run, with the same settings and code, this version is
    used again instead of a second one.
    """
    if version.tags.get(REGISTRATION) == UNFINISHED:
        return True
    try:
        with talking_to_registry(f"reading the run of {version.title}") as client:
            run = client.get_run(version.run_id)
            own = client.get_run(registry_mlflow().active_run().info.run_id)
    except RegistryError:  # the run was deleted
        return False
    same_code = version.tags.get("git_revision") == git_revision()
    return run.info.status == "KILLED" or (same_code and _is_same_attempt(run, own))


def _is_same_attempt(run: Any, own: Any) -> bool:
    """Whether two MLflow runs are for one output or pipeline run, with equal settings."""
    same = any(
        run.data.tags.get(tag) == own.data.tags[tag] for tag in ATTEMPT_TAGS if tag in own.data.tags
    )
    return same and _settings(run) == _settings(own)


def _settings(run: Any) -> dict[str, str]:
    return {
        name: value for name, value in run.data.params.items() if name.startswith(f"{LAST_STEP}.")
    }


def version_tags(file_list: Path, subject: Subject) -> dict[str, str]:
    """A version's tags: its gate, where it comes from, and what its files are."""
    gate, evidence, lineage = subject.gate, subject.evidence, subject.lineage
    return {
        "gate": gate.verdict,
        "gate_rules_not_passed": ", ".join(rule.name for rule in gate.failures()) or "none",
        "gate_champion": gate.champion or NONE,
        "sample_data": str(evidence.rules.sample_data).lower(),
        "strict_mAP_at_10": f"{evidence.map_at_10.mean:.4f}",
        "code_version": lineage["evaluation"].code_version,
        **subject.provenance,
        FILES_DIGEST: sha256_of(file_list),
        INPUTS_DIGEST: _inputs_digest(_digests(lineage)),
    }


def _digests(lineage: Mapping[str, Summary]) -> dict[str, str]:
    return {key: summary.digest for key, summary in lineage.items()}


def _inputs_digest(digests: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(dict(digests), sort_keys=True).encode()).hexdigest()


def all_metrics(lineage: Mapping[str, Summary]) -> dict[str, float]:
    """Metrics of every step, named as the steps log them; a cached step logs nothing itself."""
    return {
        f"{key}/{name.replace('@', '_at_')}": value
        for key, summary in lineage.items()
        for name, value in summary.metrics.items()
    }


def write_files(folder: Path, model: Path, subject: Subject) -> str:
    """Write the files of a version beside its model folder; returns the description."""
    card = write_card(subject)
    (folder / EVIDENCE).write_text(subject.evidence.model_dump_json(indent=2), "utf-8")
    (folder / LINEAGE).write_text(lineage_json(subject.lineage), "utf-8")
    (folder / GATE).write_text(subject.gate.model_dump_json(indent=2), "utf-8")
    (folder / CARD).write_text(card, "utf-8")
    (folder / PAGE).write_text(write_page(subject), "utf-8")
    if subject.cases:
        (folder / PICTURE).write_bytes(draw_cases(subject.cases))
    write_digests(folder, digests_of(model, CODE, folder) | _digests(subject.lineage))
    return card

"""The files of a champion: copied or written on the reviewer's machine, signed, and logged again.

The pipeline's identity may change a candidate's files at any time. So a champion consists of
a copy: data files that were checked, and everything else (MLflow's description of the model, its
code, its requirements, the gate) written here by this installation. It is logged to an experiment
that only reviewers may edit.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from product1m.errors import ArtifactError, RegistryError
from product1m.registry.candidate_files import CandidateFiles, read_question
from product1m.registry.claims import PROCESS, Source
from product1m.registry.evidence import EVIDENCE, EVIDENCE_DIGEST, Evidence
from product1m.registry.gate import Gate
from product1m.registry.logged_models import logged_model, own_experiment
from product1m.registry.roles import CHAMPIONS
from product1m.registry.signing import Signer, sign_folder, trust_in
from product1m.registry.version_files import digests_of, lineage_json, write_digests
from product1m.registry.versions import GATE, LINEAGE, ModelVersion
from product1m.serving.asking import ask_apart
from product1m.serving.model_folder import CODE, MODEL_FOLDER, copy_parts
from product1m.serving.packaging import NAME, save_model
from product1m.serving.signatures import SIGNATURE
from product1m.storage.base import sha256_of
from product1m.storage.scratch import scratch_folder
from product1m.telemetry.mlflow_client import talking_to_registry
from product1m.telemetry.processes import this_process

RECORD = "promotion.json"
"""Who promoted what, when, why and with which rules; signed with the model."""
MEASURED = "measured.json"
"""Like `evidence.json`, measured by the reviewer."""
PROVENANCE = ("git_revision", "pipeline_run", "mlflow_run")
"""Tags that a champion takes over from its candidate as they are; nobody checked them."""


@dataclass(frozen=True)
class Promotion:
    """What a reviewer decided, about which files."""

    candidate: ModelVersion
    files: CandidateFiles
    gate: Gate
    sample_data: bool
    record: Mapping[str, str]
    measured: Evidence | None = None
    """What the reviewer measured; None if nothing."""


def make_champion(promotion: Promotion, by: Signer) -> Source:
    """Make a champion's files, sign them, let the model answer apart, and log them.

    Raises RegistryError if the candidate is no model, does not answer, or MLflow refuses.
    """
    title = promotion.candidate.title
    with scratch_folder() as scratch, _logged_model(promotion) as (client, logged):
        folder, signature = scratch / "champion", scratch / SIGNATURE
        _write_files(folder, scratch / MODEL_FOLDER, promotion, logged)
        sign_folder(folder, signature, by)
        ask_apart(folder, trust_in(by, scratch), title)
        client.log_model_artifacts(logged.model_id, str(folder))
        client.log_model_artifact(logged.model_id, str(signature))
        tags = _tags(folder, promotion)
    return Source(
        f"models:/{logged.model_id}", logged.source_run_id, logged.model_id, _page(promotion), tags
    )


@contextmanager
def _logged_model(promotion: Promotion) -> Iterator[tuple[Any, Any]]:
    title = promotion.candidate.title
    with talking_to_registry(f"logging a champion from {title}") as client:
        experiment = own_experiment(
            client, CHAMPIONS, lambda: _location(client, promotion.candidate)
        )
        copied = {key: promotion.record[key] for key in ("by", "reason", "promoted_from")}
        tags = copied | {PROCESS: this_process()}
        run_name = f"promotion of {title}"
        with logged_model(client, experiment, NAME, run_name, tags) as logged:
            yield client, logged


def _location(client: Any, candidate: ModelVersion) -> str:
    experiment = client.get_run(candidate.run_id).info.experiment_id
    return str(client.get_experiment(experiment).artifact_location)


def _write_files(folder: Path, model: Path, promotion: Promotion, logged: Any) -> None:
    files, title = promotion.files, promotion.candidate.title
    try:
        copy_parts(files.model, model)
    except ArtifactError as error:
        raise RegistryError(f"{title}: {error}") from error
    digests = {key: summary.digest for key, summary in files.lineage.items()}
    save_model(folder, model, read_question(files.folder, title), digests, logged)
    written = {
        EVIDENCE: files.evidence.model_dump_json(indent=2),
        LINEAGE: lineage_json(files.lineage),
        GATE: promotion.gate.model_dump_json(indent=2),
        RECORD: json.dumps(dict(promotion.record), indent=2, ensure_ascii=False),
    }
    if promotion.measured:
        written[MEASURED] = promotion.measured.model_dump_json(indent=2)
    for name, text in written.items():
        (folder / name).write_text(text, "utf-8")
    own = digests_of(folder / "artifacts" / MODEL_FOLDER, folder / CODE.name, folder)
    write_digests(folder, own | digests)


def _tags(folder: Path, promotion: Promotion) -> dict[str, str]:
    """A champion's tags, from what was checked; only `PROVENANCE` is the pipeline's word."""
    evidence, candidate = promotion.files.evidence, promotion.candidate
    return {
        "gate": promotion.gate.verdict,
        "sample_data": str(promotion.sample_data).lower(),
        "strict_mAP_at_10": f"{evidence.map_at_10.mean:.4f}",
        "candidate_files": promotion.files.digest,
        **{name: candidate.tags[name] for name in PROVENANCE if name in candidate.tags},
        EVIDENCE_DIGEST: sha256_of(folder / EVIDENCE),
    }


def _page(promotion: Promotion) -> str:
    """The description: what was decided here, then what the pipeline wrote."""
    record = promotion.record
    return (
        f"**Promoted by {record['by']}** at {record['at']} from {record['promoted_from']}: "
        f"{record['reason']}. Gate at that time: **{promotion.gate.verdict.upper()}**.\n\n"
        f"The pipeline wrote at registration:\n\n{promotion.candidate.description}"
    )

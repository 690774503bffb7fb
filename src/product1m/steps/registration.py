"""RPN, CAPTURE, tokenizer and index as one candidate version, with its gate and its page."""

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

from product1m.artifacts.folder import Artifact, open_artifact
from product1m.artifacts.lineage import require_built_with, require_descends
from product1m.artifacts.manifest import Summary
from product1m.artifacts.model_parts import CAPTURE, INDEX, RPN, THUMBNAILS
from product1m.config import RegistrationConfig
from product1m.evaluation.artifact_files import match_scorer, shipped_weights
from product1m.evaluation.examples import agreement, read_examples
from product1m.registry.candidate import (
    WRITTEN,
    adopt_unfinished,
    all_metrics,
    describe_candidate,
    version_tags,
    write_files,
)
from product1m.registry.champion import meet_champion
from product1m.registry.evidence import gather_evidence, rules_for
from product1m.registry.gate import Gate, decide
from product1m.registry.leftovers import remove_left_by_registrations
from product1m.registry.roles import ModelNames
from product1m.registry.versions import GATE, PAGE, PAGES, finish_registration, register
from product1m.serving.model_folder import (
    MODEL_FOLDER,
    ServingConfig,
    digests_by_name,
    link_parts,
    write_file_list,
)
from product1m.serving.packaging import log_model, read_back
from product1m.serving.thumbnails import write_thumbnails
from product1m.steps.bracket import OpenStep, open_step
from product1m.storage.scratch import scratch_folder, temporary_files_in
from product1m.telemetry.mlflow_client import registry_mlflow, talking_to_registry

logger = logging.getLogger(__name__)

STEP = "registration"


def run(
    rpn: Path,
    capture: Path,
    index: Path,
    evaluation: Path,
    queries: Path,
    gallery: Path,
    registration: Path,
    config: RegistrationConfig,
) -> dict[str, float]:
    """Log the model, load it back, decide the gate, and make it the newest candidate version.

    A champion that was measured on other queries answers these first. A model that cannot be loaded
    and does not answer is not registered. What a killed attempt registered is kept, what it logged
    without registering it is removed.

    Raises:
        ArtifactError: the inputs do not belong together, or a file is damaged.
        RegistryError: MLflow cannot be reached, or refuses.
    """
    registry_mlflow()
    with (
        open_step(STEP, config, registration) as step,
        talking_to_registry("registering the model", registration),
        scratch_folder() as scratch,
        temporary_files_in(scratch),
    ):
        inputs = step.read(_open(rpn, capture, index, evaluation, queries, gallery))
        if not _adopt(step, inputs["evaluation"], config, scratch):
            model = scratch / MODEL_FOLDER
            _make_model_folder(model, inputs, config)
            _register(step, model, inputs, config)
    finish_registration(step.details["name"], step.details["version"])
    return step.all_metrics()


def _open(
    rpn: Path, capture: Path, index: Path, evaluation: Path, queries: Path, gallery: Path
) -> dict[str, Artifact]:
    """Inputs that were made from one another; no file of the models is damaged."""
    inputs = {
        "rpn": open_artifact(rpn, "rpn_training"),
        "capture": open_artifact(capture, "capture_pretraining"),
        "index": open_artifact(index, "indexing"),
        "evaluation": open_artifact(evaluation, "evaluation"),
        "queries": open_artifact(queries, "ingestion", "queries"),
        "gallery": open_artifact(gallery, "ingestion", "gallery"),
    }
    require_descends(inputs["capture"], inputs["rpn"])
    require_built_with(inputs["index"], inputs["capture"])
    for name in ("rpn", "capture", "index", "queries", "gallery"):
        require_descends(inputs["evaluation"], inputs[name])
    for name in ("rpn", "capture", "index"):
        inputs[name].verify()
    return inputs


def _lineage(evaluation: Artifact) -> dict[str, Summary]:
    """Summaries of every step so far, by key."""
    return {**evaluation.manifest.lineage, "evaluation": evaluation.manifest}


def _make_model_folder(
    model: Path, inputs: Mapping[str, Artifact], config: RegistrationConfig
) -> None:
    link_parts(model, {RPN: inputs["rpn"], CAPTURE: inputs["capture"], INDEX: inputs["index"]})
    if config.thumbnail_side_px:
        write_thumbnails(inputs["gallery"], model / THUMBNAILS, config)
    lineage = _lineage(inputs["evaluation"])
    ServingConfig.model_validate(
        {
            "ingestion": lineage["ingestion/queries"].config,
            "feature_extraction": lineage["feature_extraction/queries"].config,
            "evaluation": lineage["evaluation"].config,
            "weights": shipped_weights(inputs["evaluation"]),
            "match_score": match_scorer(inputs["evaluation"]),
        }
    ).write(model)


def _adopt(step: OpenStep, evaluation: Artifact, config: RegistrationConfig, scratch: Path) -> bool:
    """Finish what a killed attempt registered, if there is such a version."""
    names = ModelNames(config.candidate_model, config.champion_model)
    rules = rules_for(config, _lineage(evaluation))
    adopted = adopt_unfinished(names, _digests(evaluation), rules, scratch / "adopted")
    remove_left_by_registrations()
    if adopted is None:
        return False
    version, files = adopted
    logger.info("%s: a killed attempt registered it; finished now", version.title)
    for name in WRITTEN:
        if (files.folder / name).is_file():
            shutil.copyfile(files.folder / name, step.folder / name)
    gate = Gate.model_validate_json((files.folder / GATE).read_text("utf-8"))
    _report(step, version.model, version.number, gate, files.evidence.served_agreement)
    return True


def _digests(evaluation: Artifact) -> dict[str, str]:
    """Digest of every step's artifact so far, by key."""
    return {key: summary.digest for key, summary in _lineage(evaluation).items()}


def _report(step: OpenStep, name: str, version: str, gate: Gate, served: float) -> None:
    """Record in the artifact which version was registered, and what its gate decided."""
    step.details.update(name=name, version=version, verdict=gate.verdict)
    step.metrics.update(
        gate_passed=float(gate.verdict == "passed"),
        rules_not_passed=float(len(gate.failures())),
        served_agreement=served,
    )
    logger.info("%s: %s version %s, gate %s", STEP, name, version, gate.verdict)


def _register(
    step: OpenStep, model: Path, inputs: Mapping[str, Artifact], config: RegistrationConfig
) -> None:
    evaluation, lineage = inputs["evaluation"], _lineage(inputs["evaluation"])
    examples = read_examples(evaluation)
    logged = log_model(model, examples[0], _digests(evaluation), all_metrics(lineage))
    answers, files = read_back(logged.model_uri, examples)
    served = agreement(answers, examples)
    opponent = meet_champion(config.champion_model, lineage, inputs["queries"], inputs["gallery"])
    rules = rules_for(config, lineage)
    evidence = gather_evidence(
        evaluation, lineage, served, rules, opponent.remeasured, opponent.failure
    )
    gate = decide(evidence, opponent.champion)
    subject = describe_candidate(inputs, lineage, evidence, gate, opponent, model)
    card = write_files(step.folder, model, subject)
    client = registry_mlflow().MlflowClient()
    client.log_model_artifacts(logged.model_id, str(step.folder))
    # Next to the model folder, because its times and ids would change the artifact's digest.
    listed = write_file_list(model.parent, files | digests_by_name(step.folder))
    client.log_model_artifact(logged.model_id, str(listed))
    client.log_artifact(logged.run_id, str(step.folder / PAGE), PAGES)
    tags = version_tags(listed, subject)
    version = register(logged.model_uri, config.candidate_model, tags, card)
    _report(step, config.candidate_model, version, gate, served)

"""RPN, CAPTURE, tokenizer and index as one candidate version, with its gate and its page."""

import base64
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

import product1m
from product1m.artifacts import Artifact, ArtifactWriter, Summary, open_artifact, write_artifact
from product1m.config import EvaluationConfig, RegistrationConfig
from product1m.examples import Example, agreement, read_examples
from product1m.gate import BASELINES, EVIDENCE, Evidence, Gate, decide
from product1m.model_card import shorten, write_card
from product1m.provenance import git_revision, pipeline_run
from product1m.registry import (
    CODE,
    MODEL_FOLDER,
    SERVING,
    current_champion,
    digests_of,
    quiet_mlflow,
    register,
    talking_to_registry,
)
from product1m.retrieval.lineage import require_built_with, require_descends
from product1m.search_service import ServingConfig
from product1m.tracking import step_run

logger = logging.getLogger(__name__)

STEP = "registration"
CARD, GATE = "model_card.md", "gate.json"
SERVING_CODE = Path(product1m.__file__).with_name(CODE)
TOP_K = 10
"""Length of a ranking unless the caller asks for another (ours)."""


def run(
    rpn: Path,
    capture: Path,
    index: Path,
    evaluation: Path,
    registration: Path,
    config: RegistrationConfig,
) -> dict[str, float]:
    """Log the model, load it back, decide the gate, and make it the newest candidate version.

    Raises ArtifactError where the inputs do not belong together or a file is damaged, RegistryError
    where MLflow is not there or refuses. Nothing is registered that cannot be loaded and asked.
    """
    inputs = {
        "rpn": open_artifact(rpn, "rpn_training"),
        "capture": open_artifact(capture, "capture_pretraining"),
        "index": open_artifact(index, "indexing"),
        "evaluation": open_artifact(evaluation, "evaluation"),
    }
    _require_one_family(**inputs)
    quiet_mlflow()
    lineage = {**inputs["evaluation"].manifest.lineage, "evaluation": inputs["evaluation"].manifest}
    examples = read_examples(inputs["evaluation"])
    with (
        talking_to_registry("registering the model"),
        step_run(STEP, config) as tracked,
        write_artifact(registration, STEP, config, inputs) as writer,
        tempfile.TemporaryDirectory() as scratch,
    ):
        model = Path(scratch) / MODEL_FOLDER
        _stage(model, inputs, lineage)
        logged = _log_model(model, examples[0], lineage)
        served = _answers(logged.model_uri, examples)
        evidence = _evidence(inputs["evaluation"], lineage, agreement(served, examples), config)
        champion = current_champion(config)
        gate = decide(evidence, champion)
        scores = json.loads(inputs["evaluation"].file("metrics.json").read_text("utf-8"))
        card = write_card(lineage, scores, evidence, gate, champion, _provenance())
        _write(writer.folder, evidence, gate, card)
        quiet_mlflow().MlflowClient().log_model_artifacts(logged.model_id, str(writer.folder))
        digests = digests_of(model, SERVING_CODE, writer.folder / EVIDENCE)
        tags = _tags(digests, evidence, gate, lineage)
        version = register(logged.model_uri, config.candidate_model, tags, shorten(card))
        _describe(writer, gate, evidence, config.candidate_model, version)
        tracked.log_metrics(writer.metrics)
    logger.info("%s: %s version %s, gate %s", STEP, config.candidate_model, version, gate.verdict)
    return dict(writer.metrics)


def _require_one_family(
    rpn: Artifact, capture: Artifact, index: Artifact, evaluation: Artifact
) -> None:
    """All four were made from one another, and no file of the models is damaged."""
    require_descends(capture, rpn)
    require_built_with(index, capture)
    for artifact in (rpn, capture, index):
        require_descends(evaluation, artifact)
        artifact.verify()


def _stage(model: Path, inputs: Mapping[str, Artifact], lineage: Mapping[str, Summary]) -> None:
    """The model folder; files are linked where the file system can, gigabytes are not copied."""
    for name in ("rpn", "capture", "index"):
        shutil.copytree(inputs[name].folder, model / name, copy_function=_link)
    fusion = json.loads(inputs["evaluation"].file("fusion.json").read_text("utf-8"))
    serving = ServingConfig.model_validate(
        {
            "ingestion": lineage["ingestion/queries"].config,
            "feature_extraction": lineage["feature_extraction/queries"].config,
            "evaluation": lineage["evaluation"].config,
            "weights": fusion["shipped"]["weights"],
        }
    )
    (model / SERVING).write_text(serving.model_dump_json(indent=2), "utf-8")


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


def _log_model(model: Path, example: Example, lineage: Mapping[str, Summary]) -> Any:
    mlflow = quiet_mlflow()
    logged = mlflow.pyfunc.log_model(
        name="product1m",
        python_model=str(SERVING_CODE),
        artifacts={MODEL_FOLDER: str(model)},
        signature=_signature(),
        input_example=(_as_input([example]), {"top_k": TOP_K}),
        pip_requirements=pinned_requirements(),
        metadata={"digests": {key: summary.digest for key, summary in lineage.items()}},
    )
    mlflow.log_metrics(_all_metrics(lineage), model_id=logged.model_id)
    return logged


def _signature() -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import AnyType, Array, Object, Property

    texts, numbers = Array(DataType.string), Array(DataType.double)
    instance = Object(
        [
            Property("box_xyxy", numbers),
            Property("score", DataType.double),
            Property("ids", texts),
            Property("labels", texts),
            Property("scores", numbers),
        ]
    )
    return ModelSignature(
        inputs=Schema([ColSpec(AnyType(), "photo"), ColSpec(DataType.string, "title")]),
        outputs=Schema(
            [ColSpec(texts, "ids"), ColSpec(texts, "labels"), ColSpec(Array(instance), "instances")]
        ),
        params=ParamSchema([ParamSpec("top_k", DataType.long, TOP_K)]),
    )


def _as_input(examples: Sequence[Example]) -> pd.DataFrame:
    photos = [base64.b64encode(example.photo).decode() for example in examples]
    return pd.DataFrame({"photo": photos, "title": [example.title for example in examples]})


def _answers(model_uri: str, examples: Sequence[Example]) -> list[list[str]]:
    """Rankings of the examples by the model as it was logged."""
    model = quiet_mlflow().pyfunc.load_model(model_uri)
    answers = model.predict(_as_input(examples), params={"top_k": TOP_K})
    return [list(ranking) for ranking in answers["ids"]]


def pinned_requirements() -> list[str]:
    """This package and what it imports, at the versions that are installed."""
    names = [
        name.split(";")[0].strip()
        for name in metadata.requires("product1m") or []
        if "extra ==" not in name
    ]
    bare = [name.split(">")[0].split("=")[0].split("<")[0].strip() for name in names]
    # A local version, as in 2.15.0+cpu, is no release that an index has.
    return [f"{name}=={metadata.version(name).split('+')[0]}" for name in ["product1m", *bare]]


def _evidence(
    evaluation: Artifact,
    lineage: Mapping[str, Summary],
    served_agreement: float,
    config: RegistrationConfig,
) -> Evidence:
    rows = pq.read_table(evaluation.file("per_query.parquet")).to_pandas()
    rows = rows[
        (rows["split"] == "test")
        & (rows["method"] == "shipped")
        & (rows["definition"] == "strict")
        & (rows["depth"] == 10)
    ]
    slices = pq.read_table(evaluation.file("slices.parquet")).to_pandas().set_index("query_id")
    scores = json.loads(evaluation.file("metrics.json").read_text("utf-8"))
    return Evidence(
        ap=dict(zip(rows["query_id"], rows["ap"], strict=True)),
        slices={str(slicing): members.to_dict() for slicing, members in slices.items()},
        leads={method: scores["differences"][method] for method in BASELINES},
        index_recall=lineage["indexing"].metrics["recall@100"],
        served_agreement=served_agreement,
        queries=lineage["ingestion/queries"].details["content"],
        gallery=lineage["ingestion/gallery"].details["content"],
        bootstrap=EvaluationConfig.model_validate(evaluation.manifest.config),
        rules=config,
    )


def _provenance() -> dict[str, str]:
    return {
        "git_revision": git_revision(),
        "pipeline_run": pipeline_run(),
        "mlflow_run": quiet_mlflow().active_run().info.run_id,
    }


def _tags(
    digests: Mapping[str, str], evidence: Evidence, gate: Gate, lineage: Mapping[str, Summary]
) -> dict[str, str]:
    return {
        "gate": gate.verdict,
        "gate_rules_not_passed": ", ".join(rule.name for rule in gate.failures()) or "none",
        "gate_champion": gate.champion or "none",
        "sample_data": str(evidence.rules.sample_data).lower(),
        "strict_mAP_at_10": f"{evidence.map_at_10.mean:.4f}",
        "code_version": lineage["evaluation"].code_version,
        **_provenance(),
        **{f"digest.{name}": digest for name, digest in digests.items()},
        **{f"digest.{key}": summary.digest for key, summary in lineage.items()},
    }


def _all_metrics(lineage: Mapping[str, Summary]) -> dict[str, float]:
    """Of every step, under the names the steps log; one from a cache logs nothing itself."""
    return {
        f"{key}/{name.replace('@', '_at_')}": value
        for key, summary in lineage.items()
        for name, value in summary.metrics.items()
    }


def _write(folder: Path, evidence: Evidence, gate: Gate, card: str) -> None:
    (folder / EVIDENCE).write_text(evidence.model_dump_json(indent=2), "utf-8")
    (folder / GATE).write_text(gate.model_dump_json(indent=2), "utf-8")
    (folder / CARD).write_text(card, "utf-8")


def _describe(
    writer: ArtifactWriter, gate: Gate, evidence: Evidence, name: str, version: str
) -> None:
    writer.details.update(name=name, version=version, verdict=gate.verdict)
    writer.metrics.update(
        gate_passed=float(gate.verdict == "passed"),
        rules_not_passed=float(len(gate.failures())),
        served_agreement=evidence.served_agreement,
    )

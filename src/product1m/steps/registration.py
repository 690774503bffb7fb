"""RPN, CAPTURE, tokenizer and index as one candidate version, with its gate and its page."""

import base64
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

import product1m
from product1m.artifacts.folder import Artifact, ArtifactWriter, open_artifact
from product1m.artifacts.lineage import require_built_with, require_descends
from product1m.artifacts.manifest import Summary
from product1m.config import EvaluationConfig, RegistrationConfig
from product1m.data.items import ItemTable
from product1m.errors import Product1MError
from product1m.evaluation.examples import Example, agreement, read_examples
from product1m.evaluation.methods import BASELINES
from product1m.evaluation.results import figures
from product1m.evaluation.scoring import read_rankings
from product1m.evaluation.statistics import BootstrapPlan
from product1m.registry.card import Subject, write_card, write_page
from product1m.registry.champion import DEPTH, measure_champion, needs_measuring
from product1m.registry.gate import (
    EVIDENCE,
    Champion,
    Evidence,
    Gate,
    Remeasured,
    Rules,
    decide,
    rivalry,
)
from product1m.registry.pictures import draw_cases, worst_cases
from product1m.registry.versions import (
    CARD,
    CODE,
    GATE,
    LINEAGE,
    MODEL_FOLDER,
    PAGE,
    PICTURE,
    SERVING,
    as_champion,
    champion_among,
    digests_of,
    lineage_json,
    list_versions,
    quiet_mlflow,
    read_lineage,
    register,
    talking_to_registry,
)
from product1m.serving.service import THUMBNAILS, ServingConfig
from product1m.serving.thumbnails import write_thumbnails
from product1m.steps.bracket import open_step
from product1m.telemetry.provenance import git_revision, pipeline_run

logger = logging.getLogger(__name__)

STEP = "registration"
SERVING_CODE = Path(product1m.__file__).with_name("serving") / CODE
TOP_K = 10
"""Length of a ranking unless the caller asks for another (ours)."""


@dataclass(frozen=True)
class _Opponent:
    """The champion as this registration meets it."""

    champion: Champion | None
    lineage: Mapping[str, Summary]
    remeasured: Remeasured | None
    failure: str = ""
    """Why it could not be measured anew."""


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

    A champion that was measured on other queries answers these first. Raises ArtifactError where
    the inputs do not belong together or a file is damaged, RegistryError where MLflow is not there
    or refuses. Nothing is registered that cannot be loaded and asked.
    """
    quiet_mlflow()
    with (
        open_step(STEP, config, registration) as step,
        talking_to_registry("registering the model"),
        tempfile.TemporaryDirectory() as scratch,
    ):
        inputs = step.read(_open(rpn, capture, index, evaluation, queries, gallery))
        evaluated = inputs["evaluation"].manifest
        lineage = {**evaluated.lineage, "evaluation": evaluated}
        model = Path(scratch) / MODEL_FOLDER
        _stage(model, inputs, lineage, config)
        examples = read_examples(inputs["evaluation"])
        logged = _log_model(model, examples[0], lineage)
        served = agreement(_answers(logged.model_uri, examples), examples)
        opponent = _opponent(lineage, queries, gallery, config)
        evidence = _evidence(inputs["evaluation"], lineage, served, opponent, config)
        gate = decide(evidence, opponent.champion)
        subject = _subject(inputs, lineage, evidence, gate, opponent, model)
        card = _write(step.folder, subject)
        quiet_mlflow().MlflowClient().log_model_artifacts(logged.model_id, str(step.folder))
        digests = digests_of(model, SERVING_CODE, step.folder)
        tags = _tags(digests, subject)
        version = register(logged.model_uri, config.candidate_model, tags, card)
        _describe(step.writer, gate, evidence, config.candidate_model, version)
    logger.info("%s: %s version %s, gate %s", STEP, config.candidate_model, version, gate.verdict)
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


def _stage(
    model: Path,
    inputs: Mapping[str, Artifact],
    lineage: Mapping[str, Summary],
    config: RegistrationConfig,
) -> None:
    """The model folder; files are linked where the file system can, gigabytes are not copied."""
    for name in ("rpn", "capture", "index"):
        shutil.copytree(inputs[name].folder, model / name, copy_function=_link)
    if config.thumbnail_side_px:
        write_thumbnails(inputs["gallery"], model / THUMBNAILS, config)
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


def _opponent(
    lineage: Mapping[str, Summary], queries: Path, gallery: Path, config: RegistrationConfig
) -> _Opponent:
    """Today's champion, measured anew where its evidence is of other queries."""
    version = champion_among(list_versions(config.champion_model))
    if version is None:
        return _Opponent(None, {}, None)
    champion = as_champion(version)
    asked = [lineage[f"ingestion/{part}"].details["content"] for part in ("queries", "gallery")]
    remeasured, failure = None, ""
    if champion.digest and needs_measuring(champion.evidence, *asked):
        try:
            remeasured = measure_champion(version, queries, gallery)
        except Product1MError as error:
            # A champion that this code cannot run must not keep its successor out: the gate says
            # that they were not compared, and a reviewer decides.
            failure = str(error)
            logger.error("%s could not answer today's queries: %s", version.title, error)
    return _Opponent(champion, read_lineage(version), remeasured, failure)


def _evidence(
    evaluation: Artifact,
    lineage: Mapping[str, Summary],
    served_agreement: float,
    opponent: _Opponent,
    config: RegistrationConfig,
) -> Evidence:
    rows = pq.read_table(evaluation.file("per_query.parquet")).to_pandas()
    rows = rows[
        (rows["split"] == "test")
        & (rows["method"] == "shipped")
        & (rows["definition"] == "strict")
        & (rows["depth"] == DEPTH)
    ]
    ap = dict(zip(rows["query_id"], rows["ap"], strict=True))
    rankings = read_rankings(evaluation.file("retrieval_id_list.txt"))
    slices = pq.read_table(evaluation.file("slices.parquet")).to_pandas().set_index("query_id")
    scores = json.loads(evaluation.file("metrics.json").read_text("utf-8"))
    ingested = lineage["ingestion/queries"].metrics
    leaked = ingested["train_photos_in_queries"] + ingested["gallery_photos_in_queries"]
    return Evidence(
        ap=ap,
        top={query: ranking[:DEPTH] for query, ranking in rankings if query in ap},
        slices={str(slicing): members.to_dict() for slicing, members in slices.items()},
        leads={method: scores["differences"][method] for method in BASELINES},
        intervals={f"test/{one.name}": one.value for one in figures(scores["test_intervals"])},
        index_recall=lineage["indexing"].metrics["recall@100"],
        served_agreement=served_agreement,
        leaked_photos=leaked / ingested["items"],
        dev_photos_in_test=ingested["test_photos_in_dev"] / max(ingested["test"], 1.0),
        quarantine={
            part: lineage[f"ingestion/{part}"].metrics["quarantine_share"]
            for part in ("train", "gallery", "queries")
        },
        queries=lineage["ingestion/queries"].details["content"],
        gallery=lineage["ingestion/gallery"].details["content"],
        bootstrap=BootstrapPlan.from_config(
            EvaluationConfig.model_validate(evaluation.manifest.config)
        ),
        rules=Rules.model_validate(config.model_dump()),
        champion=opponent.remeasured,
        champion_failure=opponent.failure,
    )


def _subject(
    inputs: Mapping[str, Artifact],
    lineage: Mapping[str, Summary],
    evidence: Evidence,
    gate: Gate,
    opponent: _Opponent,
    model: Path,
) -> Subject:
    champion = opponent.champion
    thumbnails = model / THUMBNAILS
    return Subject(
        lineage=lineage,
        scores=json.loads(inputs["evaluation"].file("metrics.json").read_text("utf-8")),
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
        "mlflow_run": quiet_mlflow().active_run().info.run_id,
    }


def _tags(digests: Mapping[str, str], subject: Subject) -> dict[str, str]:
    gate, evidence, lineage = subject.gate, subject.evidence, subject.lineage
    return {
        "gate": gate.verdict,
        "gate_rules_not_passed": ", ".join(rule.name for rule in gate.failures()) or "none",
        "gate_champion": gate.champion or "none",
        "sample_data": str(evidence.rules.sample_data).lower(),
        "strict_mAP_at_10": f"{evidence.map_at_10.mean:.4f}",
        "code_version": lineage["evaluation"].code_version,
        **subject.provenance,
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


def _write(folder: Path, subject: Subject) -> str:
    """The version's files; returns the description."""
    card = write_card(subject)
    (folder / EVIDENCE).write_text(subject.evidence.model_dump_json(indent=2), "utf-8")
    (folder / LINEAGE).write_text(lineage_json(subject.lineage), "utf-8")
    (folder / GATE).write_text(subject.gate.model_dump_json(indent=2), "utf-8")
    (folder / CARD).write_text(card, "utf-8")
    (folder / PAGE).write_text(write_page(subject), "utf-8")
    if subject.cases:
        (folder / PICTURE).write_bytes(draw_cases(subject.cases))
    return card


def _describe(
    writer: ArtifactWriter, gate: Gate, evidence: Evidence, name: str, version: str
) -> None:
    writer.details.update(name=name, version=version, verdict=gate.verdict)
    writer.metrics.update(
        gate_passed=float(gate.verdict == "passed"),
        rules_not_passed=float(len(gate.failures())),
        served_agreement=evidence.served_agreement,
    )

"""Log a model folder to MLflow as a model that anyone can load, then let it answer its example."""

import base64
import json
import shutil
import time
import warnings
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd

from product1m.evaluation.examples import Example
from product1m.serving.model_folder import CODE, MODEL_FOLDER, digests_by_name
from product1m.serving.signatures import ALLOW
from product1m.storage.scratch import scratch_folder
from product1m.telemetry.environment import environment_set
from product1m.telemetry.mlflow_client import download, registry_mlflow

NAME = "product1m"
"""Name of the logged model within its run."""
QUERIES, QUERIES_NAME = "ingestion/queries", "queries"
"""Artifact of the queries that a model was evaluated on, and its name as a data set of MLflow."""
EVALUATION = "evaluation/"
"""How the names of the figures measured on them begin."""
DIGEST_CHARS, METRICS_AT_ONCE = 32, 500
"""MLflow takes 36 characters of a data set's digest, and 1,000 metrics a request."""
TOP_K = 10
"""Length of a ranking unless the caller asks for another (ours)."""


def log_model(
    model: Path, example: Example, digests: Mapping[str, str], metrics: Mapping[str, float]
) -> Any:
    """Log a model folder to the active run.

    Args:
        model: the folder.
        example: stored as the model's input example.
        digests: of the artifacts that it was made from, by name; stored with the model.
        metrics: stored with the model; those of the evaluation as figures on its data set.

    Returns:
        MLflow's `ModelInfo`.
    """
    mlflow = registry_mlflow()
    with environment_set({ALLOW: "true"}):  # MLflow asks the model its example
        logged = mlflow.pyfunc.log_model(
            name=NAME, **_contents(model, _as_input([example]), digests)
        )
    measured = {name: value for name, value in metrics.items() if name.startswith(EVALUATION)}
    others = {name: value for name, value in metrics.items() if name not in measured}
    mlflow.log_metrics(others, model_id=logged.model_id)
    _log_measured(logged.run_id, logged.model_id, measured, digests[QUERIES])
    return logged


def _log_measured(
    run_id: str, model_id: str, metrics: Mapping[str, float], queries_digest: str
) -> None:
    """Log figures with the queries that they were measured on, so that both are found by them.

    MLflow drops a data set without a word unless the model is named, and where its own functions
    log several metrics at once.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric

    client, digest = registry_mlflow().MlflowClient(), queries_digest[:DIGEST_CHARS]
    source = json.dumps({"artifact": QUERIES, "digest": queries_digest})
    dataset = Dataset(QUERIES_NAME, digest, "product1m", source)
    context = InputTag("mlflow.data.context", "evaluation")
    client.log_inputs(run_id, [DatasetInput(dataset, [context])])
    now = int(time.time() * 1000)
    logged = [
        Metric(name, value, now, 0, model_id, QUERIES_NAME, digest)
        for name, value in metrics.items()
    ]
    for start in range(0, len(logged), METRICS_AT_ONCE):
        client.log_batch(run_id, logged[start : start + METRICS_AT_ONCE])


def save_model(
    folder: Path, model: Path, question: pd.DataFrame, digests: Mapping[str, str], identity: Any
) -> None:
    """Write a model folder as an MLflow model on this machine.

    Args:
        folder: to write.
        model: the model folder.
        question: the input example.
        digests: as in `log_model`.
        identity: MLflow's `LoggedModel` that the files are for.
    """
    mlflow = registry_mlflow()
    described = mlflow.models.Model(
        artifact_path=identity.artifact_location,
        model_uuid=identity.model_id,
        run_id=identity.source_run_id,
        model_id=identity.model_id,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.pyfunc.save_model(
            path=str(folder), mlflow_model=described, **_contents(model, question, digests)
        )
    for cache in folder.rglob("__pycache__"):
        shutil.rmtree(cache)


def _contents(model: Path, question: pd.DataFrame, digests: Mapping[str, str]) -> dict[str, Any]:
    return {
        "python_model": str(CODE),
        "artifacts": {MODEL_FOLDER: str(model)},
        "signature": _signature(),
        "input_example": (question, {"top_k": TOP_K}),
        "pip_requirements": pinned_requirements(),
        "metadata": {"digests": dict(digests)},
    }


def read_back(
    model_uri: str, examples: Sequence[Example]
) -> tuple[list[list[str]], dict[str, str]]:
    """Fetch a model that was just logged, and ask it.

    Returns:
        Its rankings of the examples, and the digest of every file.
    """
    with scratch_folder() as scratch, environment_set({ALLOW: "true"}):
        folder = download(model_uri, "", scratch)
        files = digests_by_name(folder)  # before Python writes its caches
        model = registry_mlflow().pyfunc.load_model(str(folder))
        answered = model.predict(_as_input(examples), params={"top_k": TOP_K})
    return [list(ranking) for ranking in answered["ids"]], files


def pinned_requirements() -> list[str]:
    """This package and what it imports, at the versions that are installed."""
    names = [
        name.split(";")[0].strip()
        for name in metadata.requires("product1m") or []
        if "extra ==" not in name
    ]
    bare = [name.split(">")[0].split("=")[0].split("<")[0].strip() for name in names]
    # No package index has a local version, such as 2.15.0+cpu.
    return [f"{name}=={metadata.version(name).split('+')[0]}" for name in ["product1m", *bare]]


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
            Property("match_scores", numbers, required=False),
            Property("in_catalogue", DataType.boolean, required=False),
            Property("shared_points", Array(DataType.long), required=False),
            Property("shared_points_xy", Array(Array(Array(DataType.double))), required=False),
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

"""A model folder logged to MLflow as a model that anybody can load, and asked once it is there."""

import base64
import tempfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd

from product1m.evaluation.examples import Example
from product1m.serving.model_folder import CODE, MODEL_FOLDER
from product1m.telemetry.mlflow_client import download, registry_mlflow

NAME = "product1m"
"""Name of the logged model within its run."""
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
        metrics: stored with the model.

    Returns:
        MLflow's `ModelInfo`.
    """
    mlflow = registry_mlflow()
    logged = mlflow.pyfunc.log_model(
        name=NAME,
        python_model=str(CODE),
        artifacts={MODEL_FOLDER: str(model)},
        signature=_signature(),
        input_example=(_as_input([example]), {"top_k": TOP_K}),
        pip_requirements=pinned_requirements(),
        metadata={"digests": dict(digests)},
    )
    mlflow.log_metrics(dict(metrics), model_id=logged.model_id)
    return logged


def answers(model_uri: str, examples: Sequence[Example]) -> list[list[str]]:
    """Rankings of the examples by a logged model, loaded back from MLflow."""
    with tempfile.TemporaryDirectory() as scratch:
        model = registry_mlflow().pyfunc.load_model(str(download(model_uri, "", Path(scratch))))
        answered = model.predict(_as_input(examples), params={"top_k": TOP_K})
    return [list(ranking) for ranking in answered["ids"]]


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

"""What the folder of a registered model holds: three artifacts, settings, and small gallery photos.

`rpn/`, `capture/` and `index/` are artifacts as their steps wrote them, `thumbnails/` is one that
need not be there, and `serving.json` holds the settings that the evaluated queries went through.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from product1m.artifacts.folder import Artifact, open_artifact
from product1m.config import EvaluationConfig, FeatureExtractionConfig, IngestionConfig
from product1m.errors import ArtifactError

MODEL_FOLDER = "model"
"""Name of the MLflow artifact that is this folder."""
RPN, CAPTURE, INDEX, THUMBNAILS = "rpn", "capture", "index", "thumbnails"
STEP_OF = {
    RPN: "rpn_training",
    CAPTURE: "capture_pretraining",
    INDEX: "indexing",
    THUMBNAILS: "registration",
}
"""Folder to the step that wrote it."""
SERVING = "serving.json"
CODE = Path(__file__).with_name("mlflow_model.py")
"""The Python file that MLflow runs the folder with; logged beside it under its own name."""


class ServingConfig(BaseModel):
    """`serving.json`: what the evaluated queries went through."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ingestion: IngestionConfig
    feature_extraction: FeatureExtractionConfig
    evaluation: EvaluationConfig
    weights: Mapping[str, float]
    """The shipped fusion."""

    @classmethod
    def read(cls, model: Path) -> "ServingConfig":
        """ArtifactError if the file of a model folder is missing or not what this code wrote."""
        path = model / SERVING
        try:
            return cls.model_validate_json(path.read_text("utf-8"))
        except (OSError, ValidationError) as error:
            raise ArtifactError(f"{path}: not a serving configuration ({error})") from error

    def write(self, model: Path) -> None:
        """Write it into a model folder."""
        (model / SERVING).write_text(self.model_dump_json(indent=2), "utf-8")


def open_part(model: Path, name: str) -> Artifact:
    """One of the artifacts in a model folder; ArtifactError if it is missing or another's."""
    return open_artifact(model / name, STEP_OF[name])


def link_parts(model: Path, parts: Mapping[str, Artifact]) -> None:
    """Make a model folder of artifacts by name.

    Files are linked if the file system can, so gigabytes are not copied.
    """
    for name, artifact in parts.items():
        shutil.copytree(artifact.folder, model / name, copy_function=_link)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)

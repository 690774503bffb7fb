"""The folder of a catalogue: an index with small photos that answers in place of a model's own.

It is an artifact of the step `catalogue`: the files of an index, `thumbnails/`, and in its manifest
the digest of the model whose vectors it holds.
"""

import hashlib
import json
from pathlib import Path

from product1m.artifacts.folder import Artifact, open_artifact
from product1m.artifacts.model_parts import CAPTURE, INDEX, RPN
from product1m.errors import ArtifactError
from product1m.retrieval.embedding import STANDARDIZATION
from product1m.retrieval.text import VOCABULARY, WEIGHTS
from product1m.serving.model_folder import ServingConfig, open_part

STEP = "catalogue"
MODEL = "model"
"""Fact in a catalogue's manifest: digest of the model that it was built with."""
ENCODER_FILES = (VOCABULARY, WEIGHTS, STANDARDIZATION)
"""Files of an index that belong to the model: they make vectors, whatever the gallery is."""


def model_digest(model: Path) -> str:
    """SHA-256 of everything in a model folder that makes answers, its own gallery left out.

    Equal for a candidate and for the champion that `promote` or `rollback` made of it. Raises
    ArtifactError if a part is missing or damaged.
    """
    parts = {name: open_part(model, name).manifest.identity for name in (RPN, CAPTURE)}
    index = open_part(model, INDEX).manifest
    facts = {
        **parts,
        "encoder": {name: index.files[name].sha256 for name in ENCODER_FILES},
        "details": index.details,
        "serving": ServingConfig.read(model).model_dump(mode="json"),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def open_catalogue(folder: Path, digest: str, title: str) -> Artifact:
    """Open a catalogue; ArtifactError if it is damaged or was built with another model.

    Args:
        folder: of the catalogue.
        digest: of the model that will answer with it, see `model_digest`.
        title: name of that model, for the message.
    """
    catalogue = open_artifact(folder, STEP)
    require_model(catalogue, digest, title)
    return catalogue


def require_model(catalogue: Artifact, digest: str, title: str) -> None:
    """ArtifactError, by name, if a catalogue was built with another model than this one."""
    built_with = str(catalogue.manifest.details.get(MODEL, "none"))
    if built_with != digest:
        raise ArtifactError(
            f"{catalogue.folder}: a catalogue of the model with digest {built_with[:12]}, but "
            f"{title} has digest {digest[:12]}; refresh the catalogue with that model: `product1m "
            "catalogue refresh --help`"
        )

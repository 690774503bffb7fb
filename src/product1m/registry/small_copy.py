"""A small copy of a model, to keep beside code: it answers alike, and cannot be trained on.

Weights and vectors are stored in half precision, the block of titles is made narrower, and what an
installed package brings anyway is left out: the weights of a backbone that was not trained. So are
the gallery's points, most of an index's size: a small copy does not check answers by them.
"""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from safetensors.torch import load_file, save_file
from torch import Tensor

from product1m.artifacts.atomic import whole_folder
from product1m.artifacts.folder import Artifact, ArtifactWriter, open_artifact, write_artifact
from product1m.artifacts.model_parts import CAPTURE, INDEX, RPN, STEP_OF, THUMBNAILS
from product1m.capture.network import WEIGHTS as CAPTURE_WEIGHTS
from product1m.config import CapturePretrainingConfig, IndexingConfig, RpnTrainingConfig
from product1m.config.section import StepConfig
from product1m.data.points import POINTS
from product1m.detection.backbone import LITE0, Backbone
from product1m.detection.proposals import BACKBONE, MODEL, WITHOUT_BACKBONE
from product1m.errors import ArtifactError
from product1m.registry.evidence import EVIDENCE
from product1m.retrieval.checking import block_weights
from product1m.retrieval.crop_block import CROP
from product1m.retrieval.embedding import OCR, BlockLayout
from product1m.retrieval.first_author import FILE as PRODUCTS
from product1m.retrieval.index import INDEX as INDEX_FILE
from product1m.retrieval.index import (
    GalleryIndex,
    add_vectors,
    make_index,
    write_index,
)
from product1m.retrieval.text import VOCABULARY, WEIGHTS, TextEncoder
from product1m.serving.model_folder import MODEL_FOLDER, ServingConfig, open_part

FACTORY = "SQfp16"
"""Index of a small copy: every vector in half precision, searched exactly."""
TEXT = "text"


def write_small_copy(folder: Path, target: Path, text_dim: int) -> int:
    """Write a small copy of an MLflow model's folder, and return its size in bytes.

    Args:
        folder: of the model; its detector's backbone must be the untrained one of a package.
        target: new folder.
        text_dim: width of the block of titles.

    Raises ArtifactError if the model cannot be made small this way, or is damaged.
    """
    model = folder / "artifacts" / MODEL_FOLDER
    with whole_folder(target) as partial:
        small = partial / "artifacts" / MODEL_FOLDER
        small.mkdir(parents=True)
        _copy_detector(open_part(model, RPN), small / RPN)
        _copy_capture(open_part(model, CAPTURE), small / CAPTURE)
        _copy_index(open_part(model, INDEX), small, text_dim)
        shutil.copytree(open_part(model, THUMBNAILS).folder, small / THUMBNAILS)
        _without_points(ServingConfig.read(model)).write(small)
        if (folder / EVIDENCE).is_file():
            shutil.copyfile(folder / EVIDENCE, partial / EVIDENCE)
    return sum(path.stat().st_size for path in target.rglob("*") if path.is_file())


def _without_points(config: ServingConfig) -> ServingConfig:
    """Weights and match scores of a model whose gallery has no points."""
    scorer = config.match_score
    if scorer is not None and scorer.without_points is not None:
        scorer = scorer.without_points
    changes = {"weights": block_weights(config.weights), "match_score": scorer}
    return config.model_copy(update=changes)


def _copy_detector(rpn: Artifact, target: Path) -> None:
    config = RpnTrainingConfig.model_validate(rpn.manifest.config)
    stored = load_file(rpn.file(MODEL))
    if config.weights != LITE0:
        raise ArtifactError(
            f"{rpn.folder}: trained from {config.weights}; expected {LITE0}, which every "
            "installation has"
        )
    known = Backbone(config.backbone, LITE0, 0).state_dict()
    untrained = {BACKBONE + name: tensor for name, tensor in known.items()}
    if any(
        name not in stored or not torch.equal(stored[name], untrained[name]) for name in untrained
    ):
        raise ArtifactError(
            f"{rpn.folder}: expected a backbone with the weights of {LITE0}, got a trained one "
            "(rpn_training.trainable_stages=0 keeps it), or a small copy already"
        )
    kept = {name: tensor for name, tensor in stored.items() if not name.startswith(BACKBONE)}
    with _part(rpn, target, config) as writer:
        save_file(_halves(kept), writer.folder / MODEL)
        writer.details[WITHOUT_BACKBONE] = LITE0


def _copy_capture(capture: Artifact, target: Path) -> None:
    config = CapturePretrainingConfig.model_validate(capture.manifest.config)
    with _part(capture, target, config) as writer:
        save_file(
            _halves(load_file(capture.file(CAPTURE_WEIGHTS))), writer.folder / CAPTURE_WEIGHTS
        )
        for name in capture.manifest.files:
            if name.startswith("tokenizer"):
                (writer.folder / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(capture.file(name), writer.folder / name)


def _copy_index(index: Artifact, small: Path, text_dim: int) -> None:
    """Fit the titles' block again on the gallery's captions, and keep the other blocks."""
    config = IndexingConfig.model_validate(index.manifest.config)
    layout = BlockLayout(index.manifest.details["blocks"])
    for block in (OCR, CROP):
        if block in layout.widths:
            raise ArtifactError(f"{index.folder}: expected no block {block}")
    gallery = GalleryIndex.load(index)
    captions = gallery.rows["caption"].tolist()
    text = TextEncoder.fit(
        captions, text_dim, config.text_max_ngram, config.text_max_terms, config.seed
    )
    vectors = _with_block(gallery.vectors(np.arange(len(gallery))), layout, text.encode(captions))
    made = make_index(FACTORY, vectors.shape[1], len(vectors), config.probes, config.seed)
    made.train(vectors)
    add_vectors(made, vectors)
    capture = open_artifact(small / CAPTURE, STEP_OF[CAPTURE])
    with _part(index, small / INDEX, config, {"capture": capture}) as writer:
        writer.details["blocks"] = {**layout.widths, TEXT: text.dim}
        text.save(writer.folder)
        save_file(_halves(load_file(writer.folder / WEIGHTS)), writer.folder / WEIGHTS)
        write_index(made, writer.folder / INDEX_FILE)
        for name in index.manifest.files:
            if name not in (VOCABULARY, WEIGHTS, INDEX_FILE, POINTS, PRODUCTS):
                shutil.copyfile(index.file(name), writer.folder / name)


def _with_block(
    vectors: Float32[np.ndarray, "n D"], layout: BlockLayout, block: Float32[np.ndarray, "n K"]
) -> Float32[np.ndarray, "n E"]:
    """The vectors with another block of titles."""
    columns = layout.columns(TEXT)
    return np.concatenate([vectors[:, : columns.start], block, vectors[:, columns.stop :]], axis=1)


@contextmanager
def _part(
    original: Artifact,
    target: Path,
    config: StepConfig,
    inputs: Mapping[str, Artifact] | None = None,
) -> Iterator[ArtifactWriter]:
    """Write an artifact with the facts, figures and lineage of another."""
    manifest = original.manifest
    with write_artifact(target, manifest.step, config, part=manifest.part) as writer:
        writer.manifest.inputs |= manifest.inputs
        writer.manifest.lineage |= manifest.lineage
        writer.add_inputs(inputs or {})
        writer.details.update(manifest.details)
        writer.metrics.update(manifest.metrics)
        yield writer


def _halves(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }

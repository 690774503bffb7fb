"""A linear map of crop vectors, learned from the scenes: a pasted product against its source photo.

What a room, its light and other products do to a vector is undone as far as a matrix can (ours).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int64
from safetensors.numpy import load_file, save_file
from torch import Tensor
from torch.nn import functional

from product1m.artifacts.folder import Artifact
from product1m.capture.scene_views import SceneViews, rows_of_sources
from product1m.data.crop_vectors import DETAILS
from product1m.data.regions import FeatureSet
from product1m.data.vectors import normalize
from product1m.errors import ArtifactError

FILE = "crop_adaptation.safetensors"
ADAPTED = "crop_adaptation"
"""Key in the details of CAPTURE: digest of the encoder whose vectors the map is for."""
NUM_STEPS, BATCH_SIZE = 300, 256
LEARNING_RATE, TEMPERATURE = 1e-3, 0.05
PULL = 1e-4
"""How strongly the map is pulled towards the identity: factor of the squared distance (ours)."""

Vectors = Float32[np.ndarray, "n D"]


@dataclass(frozen=True)
class Pairs:
    """Pasted products with the photos that they were cut from."""

    instances: Vectors
    """Standardized, of unit length."""
    sources: Vectors
    """The same of each source photo."""
    source_of: Int64[np.ndarray, " n"]
    """The row in `sources` of each instance."""

    def recall(self, matrix: Float32[np.ndarray, "D D"] | None = None) -> float:
        """Share of the instances whose nearest source is their own."""
        rows, others = self.instances, self.sources
        if matrix is not None:
            rows, others = normalize(rows @ matrix.T), normalize(others @ matrix.T)
        return float(np.mean((rows @ others.T).argmax(axis=1) == self.source_of))


@dataclass(frozen=True)
class Adaptation:
    """A map, and what it does to products of held-out scenes."""

    matrix: Float32[np.ndarray, "D D"] | None
    """None if the identity finds as many."""
    encoder: str
    """Digest of the encoder whose vectors it maps."""
    recall_before: float
    recall_after: float

    @property
    def metrics(self) -> dict[str, float]:
        """Share of the products of held-out scenes whose nearest source is their own."""
        return {
            "crop_adaptation/recall_before": self.recall_before,
            "crop_adaptation/recall_after": self.recall_after,
            "crop_adaptation/kept": float(self.matrix is not None),
        }

    def save(self, folder: Path) -> None:
        """Write the map as safetensors, if it is kept."""
        if self.matrix is not None:
            save_file({"matrix": np.ascontiguousarray(self.matrix)}, folder / FILE)


def learn_adaptation(items: FeatureSet, scenes: FeatureSet, seed: int) -> Adaptation | None:
    """Learn on the `train` scenes, decide on the `held_out` scenes; None without crops of both.

    Args:
        items: features of the train photos.
        scenes: features of the scenes that products of these photos were pasted in.
        seed: draws the batches.
    """
    if not (items.has_crops and scenes.has_crops):
        return None
    own, other = (part.artifact.manifest.details[DETAILS]["digest"] for part in (items, scenes))
    if own != other:
        raise ArtifactError(
            f"{scenes.artifact.folder}: crops of the encoder {other}, but {items.artifact.folder} "
            f"has those of {own}; extract both with one feature_extraction.crop_encoder"
        )
    photos = np.concatenate([items.crops(row).vectors[:1] for row in range(len(items))])
    wide = photos.astype(np.float32)
    mean, deviation = wide.mean(axis=0), np.maximum(wide.std(axis=0), 1e-6)
    standard = normalize((wide - mean) / deviation)
    train, held_out = (
        _pairs(scenes, split, items, standard, mean, deviation) for split in ("train", "held_out")
    )
    return adapt(train, held_out, own, seed)


def adapt(train: Pairs, held_out: Pairs, encoder: str, seed: int) -> Adaptation:
    """Learn on some pairs; the map is kept if it finds more sources of the others."""
    if not len(train.instances) or not len(held_out.instances):
        return Adaptation(None, encoder, 0.0, 0.0)
    matrix = _learn(train, seed)
    before, after = held_out.recall(), held_out.recall(matrix)
    return Adaptation(matrix if after > before else None, encoder, before, after)


def _pairs(
    scenes: FeatureSet,
    split: str,
    items: FeatureSet,
    photos: Vectors,
    mean: Float32[np.ndarray, " D"],
    deviation: Float32[np.ndarray, " D"],
) -> Pairs:
    views = SceneViews(scenes, split, rows_of_sources(scenes, items))
    found, rows = [], []
    for scene, box, source in zip(views.scenes, views.boxes_xyxy, views.sources, strict=True):
        vector = scenes.crops(int(scene)).at(box)
        if vector is not None:
            found.append((vector.astype(np.float32) - mean) / deviation)
            rows.append(source)
    known, source_of = np.unique(np.array(rows, np.int64), return_inverse=True)
    instances = normalize(np.stack(found)) if found else photos[:0]
    return Pairs(instances, photos[known], source_of)


def _learn(pairs: Pairs, seed: int) -> Float32[np.ndarray, "D D"]:
    """The map with the smallest contrastive loss, pulled towards the identity."""
    sources, instances = torch.from_numpy(pairs.sources), torch.from_numpy(pairs.instances)
    identity = torch.eye(sources.shape[1])
    matrix = identity.clone().requires_grad_()
    optimizer = torch.optim.Adam([matrix], LEARNING_RATE)
    for rows in _batches(pairs, seed):
        others = torch.from_numpy(pairs.source_of[rows])
        pasted = functional.normalize(instances[torch.from_numpy(rows)] @ matrix.T)
        photos = functional.normalize(sources[others] @ matrix.T)
        logits = pasted @ photos.T / TEMPERATURE
        pull = PULL * (matrix - identity).square().sum()
        optimizer.zero_grad()
        torch.autograd.backward(_both_ways(logits) + pull)
        optimizer.step()
    return np.asarray(matrix.detach().numpy())


def _both_ways(logits: Tensor) -> Tensor:
    """InfoNCE: row and column i belong together."""
    targets = torch.arange(len(logits))
    return (
        functional.cross_entropy(logits, targets) + functional.cross_entropy(logits.T, targets)
    ) / 2


def _batches(pairs: Pairs, seed: int) -> Iterator[Int64[np.ndarray, " b"]]:
    """Instances of different sources: each source at most once in a batch."""
    generator = np.random.default_rng(seed)
    of_source = [np.flatnonzero(pairs.source_of == row) for row in range(len(pairs.sources))]
    for _ in range(NUM_STEPS):
        drawn = generator.permutation(len(of_source))[:BATCH_SIZE]
        yield np.array([generator.choice(of_source[row]) for row in drawn], np.int64)


def stored_adaptation(capture: Artifact, gallery: Artifact) -> Float32[np.ndarray, "D D"] | None:
    """The map in a CAPTURE artifact for the crops of a gallery's features.

    None if none was learned or kept, or if there are no crops. Raises ArtifactError if it maps
    vectors of another encoder.
    """
    if FILE not in capture.manifest.files or DETAILS not in gallery.manifest.details:
        return None
    encoder = gallery.manifest.details[DETAILS]["digest"]
    own = capture.manifest.details[ADAPTED]
    if own != encoder:
        raise ArtifactError(
            f"{capture.folder / FILE}: maps vectors of the encoder {own}, but the gallery's are of "
            f"{encoder}; extract all parts with one feature_extraction.crop_encoder"
        )
    return load_file(capture.file(FILE))["matrix"]

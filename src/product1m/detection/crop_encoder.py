"""Encode products that were cut out of their photos, one picture at a time.

A vector depends on the encoder and the picture alone, not on other pictures or on the number of
threads, so it can be cached by the photo's digest (`crop_cache`).
"""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float32
from safetensors import safe_open
from torch import Tensor

from product1m.artifacts.folder import Artifact
from product1m.config import FeatureExtractionConfig
from product1m.data.crop_vectors import DETAILS
from product1m.data.photos import Photo
from product1m.detection.crops import encode_crop
from product1m.detection.encoder_recipe import BACKBONE
from product1m.detection.extraction import RegionSettings
from product1m.detection.image_models import ImageModelEncoder, digest_of
from product1m.detection.proposals import BACKBONE as WEIGHTS
from product1m.detection.proposals import MODEL, ProposalNetwork, load_rpn
from product1m.errors import ArtifactError


class CropEncoder(Protocol):
    """Encodes pictures of single products."""

    @property
    def dim(self) -> int:
        """D, the width of a vector."""

    @property
    def device(self) -> torch.device:
        """Where the encoder computes."""

    @property
    def key(self) -> str:
        """Identifies weights and preparation: if it is equal, a picture gives equal vectors."""

    @property
    def details(self) -> dict[str, Any]:
        """Facts for the manifest of an artifact with its vectors."""

    def encode(self, crop: Photo) -> Float32[np.ndarray, " D"]:
        """The vector of a picture of any size, with any length."""

    def save(self, folder: Path) -> list[Path]:
        """Write what a served model needs of the encoder, unless the RPN has it; the files."""


class BackboneEncoder:
    """The RPN's backbone: a picture is encoded like a whole photo, at the network's full size."""

    def __init__(
        self,
        rpn: Artifact,
        settings: RegionSettings,
        network: ProposalNetwork | None = None,
        license: str = "",
    ) -> None:
        """`network` is that of the artifact `rpn`, if it is loaded."""
        self._license = license
        network = network or load_rpn(rpn)
        self._network = network
        self._settings = settings
        self.dim = network.feature_dim
        self.device = network.device
        sizes = (network.short_side_px, network.long_side_px, *_pooling(settings))
        self.key = digest_of(_stored_backbone(rpn), repr(sizes))

    @property
    def details(self) -> dict[str, Any]:
        """Facts for the manifest of an artifact with its vectors."""
        return {
            "encoder": BACKBONE,
            "digest": self.key,
            "license": self._license,
            "dim": self.dim,
            "side_px": self._network.short_side_px,
        }

    def encode(self, crop: Photo) -> Float32[np.ndarray, " D"]:
        """The vector of a picture."""
        return encode_crop(self._network, crop, self._settings)

    def save(self, folder: Path) -> list[Path]:  # noqa: ARG002
        """Nothing: the RPN's artifact has the backbone."""
        return []


def _stored_backbone(rpn: Artifact) -> dict[str, Tensor]:
    """The backbone's weights as they are stored: once they run, they may differ by machine."""
    with safe_open(rpn.file(MODEL), "pt") as file:
        names = [name for name in file.keys() if name.startswith(WEIGHTS)]  # noqa: SIM118
        return {name: file.get_tensor(name) for name in names}


def _pooling(settings: RegionSettings) -> tuple[int, int, int, str]:
    """The settings that the vector of a whole photo depends on."""
    return (
        settings.canonical_side_px,
        settings.photo_scales,
        settings.roi_size,
        settings.precision,
    )


def open_encoder(config: FeatureExtractionConfig, rpn: Artifact) -> CropEncoder:
    """The encoder that a configuration section names."""
    if config.crop_encoder == BACKBONE:
        settings = RegionSettings.from_config(config, grabcut=None)
        return BackboneEncoder(rpn, settings, license=config.crop_encoder_license)
    return ImageModelEncoder.open(config.crop_encoder, config.crop_encoder_license)


def stored_encoder(
    index: Artifact,
    config: FeatureExtractionConfig,
    rpn: Artifact,
    network: ProposalNetwork | None = None,
) -> CropEncoder:
    """The encoder of the vectors in an index.

    `config` is that of the queries, `rpn` found their boxes, and `network` is its network if that
    is loaded. Raises ArtifactError if this is not what encoded the gallery.
    """
    details = index.manifest.details[DETAILS]
    if details["encoder"] != BACKBONE:
        return ImageModelEncoder.load(index, details)
    encoder = BackboneEncoder(rpn, RegionSettings.from_config(config, grabcut=None), network)
    stored = details["digest"]
    if encoder.key != stored:
        raise ArtifactError(
            f"{index.folder}: its crops were encoded by {stored}, the queries' by {encoder.key}; "
            "run the gallery's feature_extraction and indexing again"
        )
    return encoder

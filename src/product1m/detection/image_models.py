"""Encode pictures with a model of timm, transformers or OpenCLIP.

A picture is resized to the model's input as a whole, so that nothing of a product is cut off.
"""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float32
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from product1m.artifacts.folder import Artifact
from product1m.data.crop_vectors import ENCODER_FILES, ENCODER_RECIPE, ENCODER_WEIGHTS
from product1m.data.photos import Photo
from product1m.detection.encoder_files import fetched_encoder, read_recipe
from product1m.detection.encoder_recipe import Recipe, recipe_text, unusable
from product1m.detection.libraries import load_timm
from product1m.detection.transformers_models import build_transformers, load_transformers
from product1m.errors import ArtifactError, Product1MError
from product1m.training import distributed

MAX_NAMED = 5
"""Maximum number of faulty weights that an error names (ours)."""


class ImageModelEncoder:
    """An image model, ready to encode."""

    def __init__(self, name: str, recipe: Recipe, network: nn.Module, key: str) -> None:
        self.device = distributed.device()
        self.key = key
        self.name = name
        self._recipe = recipe
        self._network = network.requires_grad_(False).eval().to(self.device)
        self._mean = np.array(recipe.mean, np.float32)
        self._std = np.array(recipe.std, np.float32)
        self.dim = len(self.encode(np.zeros((*recipe.size_px, 3), np.uint8)))

    @classmethod
    def open(cls, name: str, license: str = "") -> "ImageModelEncoder":
        """Load the encoder that the setting `feature_extraction.crop_encoder` names.

        Raises ConfigError if it is not complete, or nothing that encodes pictures.
        """
        with fetched_encoder(name) as found:
            recipe, weights, prefix = read_recipe(found, name, license)
            try:
                network, faults = _loaded(recipe, weights, prefix, name)
            except Product1MError:
                raise
            except Exception as error:  # broken files can make the libraries raise anything
                raise unusable(name, f"it cannot be loaded ({error})") from error
        faults += [
            f"{key} holds values that are not finite"
            for key, values in network.state_dict().items()
            if values.is_floating_point() and not values.isfinite().all()
        ]
        if faults:
            raise unusable(
                name,
                f"it is not complete: {'; '.join(faults[:MAX_NAMED])}"
                f"{' …' * (len(faults) > MAX_NAMED)} ({len(faults)} in all); fetch it again",
            )
        prepared = recipe_text(recipe.model_copy(update={"license": ""}))
        key = digest_of(network.state_dict(), prepared)
        return cls(name, recipe, network, key)

    @classmethod
    def load(cls, artifact: Artifact, details: Mapping[str, Any]) -> "ImageModelEncoder":
        """Read what `save` wrote into an artifact with these details."""
        path = artifact.file(ENCODER_RECIPE)
        try:
            recipe = Recipe.model_validate_json(path.read_bytes())
            network = _built(recipe, str(path))
            network.load_state_dict(load_file(artifact.file(ENCODER_WEIGHTS)))
        except (ValidationError, RuntimeError, SafetensorError) as error:
            raise ArtifactError(
                f"{path}: this version cannot load the encoder ({error}); run feature_extraction "
                "again"
            ) from error
        return cls(str(details["encoder"]), recipe, network, str(details["digest"]))

    def save(self, folder: Path) -> list[Path]:
        """Write the encoder, so that it can be loaded without what it came from; its files."""
        weights = self._network.state_dict()
        own = {name: tensor.cpu().contiguous().clone() for name, tensor in weights.items()}
        save_file(own, folder / ENCODER_WEIGHTS)
        (folder / ENCODER_RECIPE).write_text(recipe_text(self._recipe), "utf-8")
        return [folder / name for name in ENCODER_FILES]

    @property
    def details(self) -> dict[str, Any]:
        """Facts for the manifest of an artifact with its vectors."""
        return {
            "encoder": self.name,
            "digest": self.key,
            "license": self._recipe.license,
            "dim": self.dim,
            "side_px": max(self._recipe.size_px),
        }

    @torch.inference_mode()
    def encode(self, crop: Photo) -> Float32[np.ndarray, " D"]:
        """The vector of a picture of any size."""
        height, width = self._recipe.size_px
        is_smaller = crop.shape[0] < height or crop.shape[1] < width
        method = cv2.INTER_CUBIC if is_smaller else cv2.INTER_AREA
        sized = cv2.resize(crop, (width, height), interpolation=method)
        pixels = (np.float32(sized) / 255 - self._mean) / self._std
        # A copy in torch's memory: products can differ in the last bit with the place in memory.
        batch = torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous()
        vectors = self._network(batch.to(self.device))
        return np.asarray(vectors[0].float().cpu().numpy())


def _loaded(recipe: Recipe, weights: Path, prefix: str, name: str) -> tuple[nn.Module, list[str]]:
    """A network with weights, and what is wrong with these."""
    if recipe.library == "transformers":
        return load_transformers(recipe.architecture, recipe.arguments, weights, name)
    if not weights.is_file():
        raise unusable(name, f"it has no {weights.name}")
    network = _built(recipe, name)
    tensors = load_file(weights)
    stored = {key.removeprefix(prefix): tensors[key] for key in tensors if key.startswith(prefix)}
    wanted = network.state_dict()
    faults = [f"{key} is missing" for key in wanted if key not in stored]
    faults += [
        f"{key} has the shape {tuple(stored[key].shape)}, its config.json says {tuple(own.shape)}"
        for key, own in wanted.items()
        if key in stored and stored[key].shape != own.shape
    ]
    if not faults:
        network.load_state_dict({key: stored[key] for key in wanted})
    return network, faults


def _built(recipe: Recipe, name: str) -> nn.Module:
    """The network without weights."""
    if recipe.library == "transformers":
        return build_transformers(recipe.architecture, recipe.arguments, name)
    network: nn.Module = load_timm().create_model(
        recipe.architecture, pretrained=False, num_classes=0, **recipe.arguments
    )
    return network


def digest_of(weights: Mapping[str, Tensor], preparation: str) -> str:
    """Identifies weights and how pictures are prepared for them."""
    digest = sha256(preparation.encode())
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]

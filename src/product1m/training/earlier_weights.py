"""The weights of an earlier model, from which a training may start instead of from scratch.

An address names the model: `models:/NAME/VERSION` at MLflow, a model folder, or the folder of a
checkpoint that a training step wrote.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from product1m.artifacts.folder import Artifact, open_artifact
from product1m.artifacts.manifest import MANIFEST
from product1m.artifacts.model_parts import LOGGED, MODELS, STEP_OF, model_in
from product1m.artifacts.pretrained import (
    PRETRAINED,
    UNKNOWN,
    initial_weights,
    recorded_weights,
)
from product1m.config import CapturePretrainingConfig, RpnTrainingConfig
from product1m.config.capture_pretraining import ARCHITECTURE as CAPTURE_ARCHITECTURE
from product1m.config.rpn_training import ARCHITECTURE as RPN_ARCHITECTURE
from product1m.errors import ConfigError
from product1m.storage.scratch import scratch_folder
from product1m.telemetry.mlflow_client import download

MASKED_TASKS = ("masked_language_weight", "masked_region_weight", "image_text_matching_weight")
"""Settings of which the network has a head, unless they are 0."""
TrainingConfig = RpnTrainingConfig | CapturePretrainingConfig


@contextmanager
def weights_of(
    section: TrainingConfig, part: str, *, only_manifest: bool = False
) -> Iterator[Artifact]:
    """The artifact whose weights a training starts from; at MLflow's only within the block.

    Raises ConfigError, naming the settings, if they do not fit, and ArtifactError or RegistryError
    if there is no such model.
    """
    address, step = section.warm_start, STEP_OF[part]
    with scratch_folder() as scratch:
        if address.startswith(MODELS):
            path = f"{LOGGED}/{part}"
            wanted = f"{path}/{MANIFEST}" if only_manifest else path
            fetched = download(address, wanted, scratch)
            folder = fetched.parent if only_manifest else fetched
        else:
            folder = Path(address)
            inside = model_in(folder) / part
            folder = inside if inside.is_dir() else folder
        artifact = open_artifact(folder, step)
        _check(artifact.manifest.config, section, step)
        yield artifact


def pretrained_details(
    section: TrainingConfig, part: str, source: str, known: str, stated: str
) -> dict[str, Any]:
    """What a manifest states about the pretrained weights that a training started from.

    They are the configuration's, or those of the model that training starts from.

    Args:
        section: of the training.
        part: of a model that the training makes.
        source: pretrained weights in the configuration.
        known: their license as they state it.
        stated: license in the configuration, which counts instead if it is not empty.
    """
    weights = initial_weights(STEP_OF[part], source, stated or known)
    if section.warm_start:
        with weights_of(section, part, only_manifest=True) as earlier:
            weights = [
                entry.model_copy(update={"license": stated})
                if stated and entry.license == UNKNOWN
                else entry
                for entry in recorded_weights(earlier.manifest)
            ]
    return {PRETRAINED: [entry.model_dump() for entry in weights]}


def num_steps(configured: int, section: TrainingConfig) -> int:
    """Optimizer steps: fewer where training starts from an earlier model's weights."""
    return max(1, round(section.warm_share * configured)) if section.warm_start else configured


def _check(made_with: Mapping[str, Any], section: TrainingConfig, step: str) -> None:
    own = section.model_dump(mode="json")
    names = RPN_ARCHITECTURE if isinstance(section, RpnTrainingConfig) else CAPTURE_ARCHITECTURE
    different = [
        f"{name} is {made_with[name]} there and {own[name]} here"
        for name in names
        if name in made_with and made_with[name] != own[name]
    ]
    different += [
        f"{name} is {made_with[name]} there and {own[name]} here, and 0 leaves its head out"
        for name in MASKED_TASKS
        if name in made_with and bool(made_with[name]) != bool(own.get(name))
    ]
    if different:
        raise ConfigError(
            f"{step}.warm_start={section.warm_start!r}: its weights do not fit: "
            f"{'; '.join(different)}; set them to the model's values, or train from scratch"
        )

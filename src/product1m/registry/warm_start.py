"""Which model a training starts from: named by a reviewer's words, and checked before a run."""

from pathlib import Path

from product1m.artifacts.model_parts import CAPTURE, MODELS, RPN, STEP_OF
from product1m.config import Config
from product1m.registry.roles import ModelNames
from product1m.registry.versions import find
from product1m.training.earlier_weights import weights_of


def start_settings(reference: str, models: ModelNames) -> dict[str, str]:
    """The settings that start both trainings from a model, as `--set` takes them.

    `reference` is `champion`, `MODEL/VERSION`, an address that begins with `models:/`, or a folder.
    A name that moves becomes the version that it means now, so that the cache can tell models
    apart.
    """
    if Path(reference).is_dir():
        address = str(Path(reference).absolute())
    else:
        address = find(reference.removeprefix(MODELS).replace("@", "/"), models).uri
    return {f"{STEP_OF[part]}.warm_start": address for part in (RPN, CAPTURE)}


def check_start(config: Config) -> None:
    """ConfigError if a training cannot start from the weights that the configuration names."""
    for part, section in ((RPN, config.rpn_training), (CAPTURE, config.capture_pretraining)):
        if section.warm_start:
            with weights_of(section, part, only_manifest=True):
                pass

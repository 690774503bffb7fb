"""Where the trainings of a run start: `--from`."""

import os
from collections.abc import Sequence
from pathlib import Path

from pipelines.local.record import SUMMARY
from pipelines.local.summary import RunSummary
from product1m.config import Preset, load_config
from product1m.errors import ConfigError
from product1m.registry.roles import ModelNames
from product1m.registry.warm_start import check_start, start_settings

PARTS = {"rpn_training": "rpn", "capture_pretraining": "capture"}
"""The steps that train, and what a run's summary calls their artifacts."""


def with_start(
    preset: Preset, overrides: Sequence[str], reference: str, *, on_cluster: bool = False
) -> list[str]:
    """The overrides and those that start both trainings from a model; checked, if there is one.

    Raises ConfigError, before anything runs, if its weights do not fit the configuration, pods
    could not read them or MLflow's address is unknown, and RegistryError if there is no such model.
    """
    config = load_config(preset, overrides)
    settings: dict[str, str] = {}
    if reference and (summary := Path(reference) / SUMMARY).is_file():
        artifacts = RunSummary.model_validate_json(summary.read_text("utf-8")).artifacts
        settings = {
            f"{step}.warm_start": str(Path(artifacts[name].path).absolute())
            for step, name in PARTS.items()
        }
    elif reference:
        _require_mlflow(reference)
        names = ModelNames(config.registration.candidate_model, config.registration.champion_model)
        settings = start_settings(reference, names)
    addresses = [address for address in settings.values() if Path(address).is_dir()]
    if on_cluster and addresses:
        raise ConfigError(
            f"--from {reference}: pods cannot read {addresses[0]}; name a registered model, "
            "`champion` or MODEL/VERSION"
        )
    changed = [*overrides, *(f"{name}={address}" for name, address in settings.items())]
    check_start(load_config(preset, changed))
    return changed


def _require_mlflow(reference: str) -> None:
    """ConfigError where a run's own MLflow, which has no models yet, would be asked for one."""
    if not Path(reference).is_dir() and not os.environ.get("MLFLOW_TRACKING_URI"):
        raise ConfigError(
            f"--from {reference}: no such folder; for a registered model set MLFLOW_TRACKING_URI "
            "to the MLflow that has it"
        )

"""A run that starts from a registered model, or from an earlier run's folder."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from pipelines.local.start import with_start
from product1m.artifacts.folder import open_artifact
from product1m.capture.network import WEIGHTS
from product1m.errors import ConfigError, RegistryError
from product1m.registry.roles import ModelNames
from product1m.registry.versions import ModelVersion
from product1m.registry.warm_start import check_start, start_settings
from product1m.steps import capture_pretraining
from tests.support.worlds.registered_model import LENIENT, MlflowStore, models_of
from tests.support.worlds.tiny_chain import CONFIG
from tests.support.worlds.tiny_world import TinyArtifacts

MODELS: ModelNames = models_of(LENIENT)


def test_a_training_starts_from_a_registered_version(
    registered: ModelVersion, made: TinyArtifacts, store: MlflowStore, tmp_path: Path
) -> None:
    settings = start_settings(f"{MODELS.candidate}/{registered.number}", MODELS)
    address = f"models:/{MODELS.candidate}/{registered.number}"
    assert settings == {
        "rpn_training.warm_start": address,
        "capture_pretraining.warm_start": address,
    }
    assert start_settings(address, MODELS) == settings
    still = {"warm_start": address, "learning_rate": 1e-12}
    config = CONFIG.capture_pretraining.model_copy(update=still)
    metrics = capture_pretraining.run(
        made.train_features, made.scenes_features, tmp_path / "capture", config
    )
    cold = open_artifact(made.capture, "capture_pretraining")
    assert metrics["num_steps"] < cold.manifest.metrics["num_steps"]
    weights, model = (load_file(folder / WEIGHTS) for folder in (tmp_path / "capture", cold.folder))
    for name, values in weights.items():
        np.testing.assert_allclose(values, model[name], rtol=1e-4, atol=1e-6)


def test_without_the_address_of_mlflow_a_registered_model_cannot_be_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(
        ConfigError, match=r"--from champion: no such folder; .* set MLFLOW_TRACKING_URI"
    ):
        with_start("sample", [], "champion")


def test_a_model_that_does_not_fit_is_refused_before_the_run_starts(
    registered: ModelVersion, store: MlflowStore
) -> None:
    model = f"{MODELS.candidate}/{registered.number}"
    with pytest.raises(ConfigError, match=r"rpn_training\.warm_start=.*fpn_channels is 64 there"):
        with_start("reference", [], model)
    with pytest.raises(ConfigError, match=r"capture_pretraining\.warm_start=.*hidden_dim is 32"):
        with_start("sample", ["rpn_training.short_side_px=128"], model)


def test_a_folder_is_refused_for_a_cluster(made: TinyArtifacts) -> None:
    with pytest.raises(ConfigError, match="pods cannot read"):
        with_start("sample", [], str(made.rpn), on_cluster=True)


def test_without_a_champion_the_versions_are_listed(
    registered: ModelVersion, store: MlflowStore
) -> None:
    with pytest.raises(RegistryError, match="no version"):
        start_settings(f"{MODELS.candidate}/77", MODELS)


def test_nothing_is_asked_for_a_training_from_scratch() -> None:
    check_start(CONFIG)
    assert with_start("sample", ["ingestion.seed=1"], "") == ["ingestion.seed=1"]

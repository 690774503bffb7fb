"""The whole configuration: presets, overrides, and messages that explain mistakes."""

import difflib
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from product1m.config.background_synthesis import BackgroundSynthesisConfig
from product1m.config.capture_pretraining import CapturePretrainingConfig
from product1m.config.catalogue import CatalogueConfig
from product1m.config.evaluation import EvaluationConfig
from product1m.config.feature_extraction import FeatureExtractionConfig
from product1m.config.indexing import IndexingConfig
from product1m.config.ingestion import IngestionConfig
from product1m.config.registration import RegistrationConfig
from product1m.config.rpn_training import RpnTrainingConfig
from product1m.config.section import Section, StepConfig
from product1m.config.serving import ServerConfig
from product1m.config.storage import StorageConfig
from product1m.config.training_job import TrainingJobConfig
from product1m.errors import ConfigError

Preset = Literal["reference", "sample", "small"]
BASE = "base"
"""Key of a preset's file: the preset that it changes."""


class Config(BaseModel):
    """A section for each step, two that several steps use, and the server's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ingestion: IngestionConfig = IngestionConfig()
    background_synthesis: BackgroundSynthesisConfig = BackgroundSynthesisConfig()
    rpn_training: RpnTrainingConfig = RpnTrainingConfig()
    feature_extraction: FeatureExtractionConfig = FeatureExtractionConfig()
    capture_pretraining: CapturePretrainingConfig = CapturePretrainingConfig()
    indexing: IndexingConfig = IndexingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    registration: RegistrationConfig = RegistrationConfig()
    catalogue: CatalogueConfig = CatalogueConfig()
    storage: StorageConfig = StorageConfig()
    training_job: TrainingJobConfig = TrainingJobConfig()
    serving: ServerConfig = ServerConfig()

    @model_validator(mode="before")
    @classmethod
    def _accept_empty_sections(cls, values: Any) -> Any:
        """A section without keys is null in YAML."""
        if not isinstance(values, Mapping):
            return values
        return {name: {} if section is None else section for name, section in values.items()}


SECTIONS: tuple[str, ...] = tuple(Config.model_fields)
ALL_STEPS: tuple[str, ...] = tuple(
    name for name in SECTIONS if isinstance(Config.model_fields[name].default, StepConfig)
)
"""Every step: those of the training pipeline, and `catalogue`, which runs between trainings."""
STEPS: tuple[str, ...] = tuple(name for name in ALL_STEPS if name != "catalogue")
"""The eight steps of the training pipeline in the order in which they run."""
RUN_SECTIONS: tuple[str, ...] = tuple(
    name for name in SECTIONS if name not in ("serving", "catalogue")
)
"""What a run depends on: the parameters of the pipeline."""


def section_model(section: str) -> type[Section]:
    """The class of a section; ConfigError if there is no such section."""
    field = Config.model_fields.get(section)
    model = field.annotation if field else None
    if not (isinstance(model, type) and issubclass(model, Section)):
        raise ConfigError(f"{section}: not a section; expected one of {', '.join(SECTIONS)}")
    return model


def load_config(preset: Preset = "reference", overrides: Iterable[str] = ()) -> Config:
    """The preset with `section.key=value` overrides; `seed=N` sets the seed of every step.

    Raises ConfigError for a wrong value and for an unknown key; the message suggests a valid key.
    """
    values = preset_values(preset)
    for override in overrides:
        _apply(values, override)
    return parse_config(values)


def preset_values(preset: Preset) -> dict[str, dict[str, Any]]:
    """Values of a preset by section and key: only those that differ from the defaults."""
    _check_known(preset, get_args(Preset), "preset")
    text = resources.files("product1m.config").joinpath(f"presets/{preset}.yaml").read_text("utf-8")
    own: dict[str, Any] = yaml.safe_load(text) or {}
    values = preset_values(own.pop(BASE)) if BASE in own else {}
    for section, changed in own.items():
        values.setdefault(section, {}).update(changed)
    return values


def parse_config(values: Mapping[str, Any]) -> Config:
    """A Config from plain values; ConfigError names every wrong key or value with what is valid."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(line) for line in error.errors())) from None


def _apply(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator:
        raise ConfigError(f"{override!r}: expected section.key=value, as in indexing.factory=Flat")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{override!r}: the value is not YAML: {error}") from None
    if key == "seed":
        for step in ALL_STEPS:
            values.setdefault(step, {})["seed"] = value
        return
    section, dot, name = key.partition(".")
    if not dot:
        raise ConfigError(
            f"{key!r}: expected section.key with a section of {', '.join(SECTIONS)}, or seed"
        )
    _check_known(section, SECTIONS, "section")
    _check_known(name, tuple(section_model(section).model_fields), f"{section} key")
    values.setdefault(section, {})[name] = value


def _check_known(name: str, known: tuple[str, ...], kind: str) -> None:
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
        raise ConfigError(f"unknown {kind} {name!r}; did you mean {nearest[0]!r}?")


def _explain(error: Any) -> str:
    location = [str(part) for part in error["loc"]]
    key = ".".join(location)
    if error["type"] == "extra_forbidden":
        model: type[BaseModel] = section_model(location[0]) if len(location) > 1 else Config
        known = tuple(model.model_fields)
        nearest = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.0)
        return f"{key}: unknown key; did you mean {nearest[0]!r}?"
    return f"{key}: {error['msg']}, got {error['input']!r}"

"""Every setting of the workflow has one home here, one file for each section.

The defaults are the *reference* preset, the scale of the paper. The docstring below a field says
what it means and ends with its source: `(paper)`, `(released code)` or `(ours)`;
`docs/reproduction.md` gives the reasons. A preset is a YAML file that lists only what differs.
"""

from product1m.config.background_synthesis import BackgroundSynthesisConfig
from product1m.config.capture_pretraining import CapturePretrainingConfig
from product1m.config.catalogue import CatalogueConfig
from product1m.config.evaluation import EvaluationConfig
from product1m.config.feature_extraction import FeatureExtractionConfig
from product1m.config.indexing import IndexingConfig
from product1m.config.ingestion import IngestionConfig
from product1m.config.loading import (
    ALL_STEPS,
    RUN_SECTIONS,
    SECTIONS,
    STEPS,
    Config,
    Preset,
    load_config,
    parse_config,
    preset_values,
    section_model,
)
from product1m.config.registration import RegistrationConfig
from product1m.config.rpn_training import RpnTrainingConfig
from product1m.config.section import Block, Precision, Section, StepConfig
from product1m.config.serving import ServerConfig
from product1m.config.storage import StorageConfig
from product1m.config.training_job import TrainingJobConfig

__all__ = [
    "ALL_STEPS",
    "RUN_SECTIONS",
    "SECTIONS",
    "STEPS",
    "BackgroundSynthesisConfig",
    "Block",
    "CapturePretrainingConfig",
    "CatalogueConfig",
    "Config",
    "EvaluationConfig",
    "FeatureExtractionConfig",
    "IndexingConfig",
    "IngestionConfig",
    "Precision",
    "Preset",
    "RegistrationConfig",
    "RpnTrainingConfig",
    "Section",
    "ServerConfig",
    "StepConfig",
    "StorageConfig",
    "TrainingJobConfig",
    "load_config",
    "parse_config",
    "preset_values",
    "section_model",
]

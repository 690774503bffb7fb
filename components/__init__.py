"""One pipeline component per step: it passes on the paths of artifacts, the step does the work."""

from components.background_synthesis import background_synthesis
from components.capture_pretraining import capture_pretraining
from components.catalogue import catalogue
from components.data_state import data_state
from components.evaluation import evaluation
from components.feature_extraction import feature_extraction
from components.indexing import indexing
from components.ingestion import ingestion
from components.registration import registration
from components.rpn_training import rpn_training

__all__ = [
    "background_synthesis",
    "capture_pretraining",
    "catalogue",
    "data_state",
    "evaluation",
    "feature_extraction",
    "indexing",
    "ingestion",
    "registration",
    "rpn_training",
]

"""Names of roles, models and the experiment, and what each role may do.

In MLflow the right to make a version of a registered model is the right to move its aliases. Duties
are apart because there are two models: the pipeline may edit only the candidate's, a reviewer only
the champion's.
"""

from collections.abc import Mapping
from dataclasses import dataclass

PIPELINE, REVIEWER = "product1m-pipeline", "product1m-reviewer"
"""Names of the two roles, and of their users unless others are given."""
EXPERIMENT = "product1m-training"
"""Experiment that the pipeline logs to, unless another name is given."""

Grants = Mapping[tuple[str, str], str]
"""Resource type and id to permission."""


@dataclass(frozen=True)
class ModelNames:
    """The two registered models."""

    candidate: str
    """Written by the pipeline."""
    champion: str
    """Written by reviewers."""


def grants(models: ModelNames, experiment_id: str) -> dict[str, Grants]:
    """What each role may do."""
    return {
        PIPELINE: {
            ("experiment", experiment_id): "EDIT",
            ("registered_model", models.candidate): "EDIT",
            ("registered_model", models.champion): "READ",
        },
        REVIEWER: {
            ("experiment", experiment_id): "READ",
            ("registered_model", models.candidate): "READ",
            ("registered_model", models.champion): "EDIT",
        },
    }

"""Names of roles, models and the experiment, and what each role may do.

In MLflow the right to make a version of a registered model is the right to move its aliases. Duties
are apart because there are two models: the pipeline may edit only the candidate's, a reviewer only
the champion's. Their files are apart because there are two experiments: whoever may edit an
experiment may change the files of every model that was logged to it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

PIPELINE, REVIEWER = "product1m-pipeline", "product1m-reviewer"
"""Names of the two roles, and of their users unless others are given."""
EXPERIMENT = "product1m-training"
"""Experiment that the pipeline logs to, unless another name is given."""
CHAMPIONS = "product1m-champions"
"""Experiment that promotions log to, where only reviewers may write."""

Grants = Mapping[tuple[str, str], str]
"""Resource type and id to permission."""


@dataclass(frozen=True)
class ModelNames:
    """The two registered models."""

    candidate: str
    """Written by the pipeline."""
    champion: str
    """Written by reviewers."""


def grants(models: ModelNames, experiment_id: str, champions_id: str) -> dict[str, Grants]:
    """What each role may do.

    Args:
        models: names of the two models.
        experiment_id: of the experiment that the pipeline logs to.
        champions_id: of the experiment that promotions log to.
    """
    return {
        PIPELINE: {
            ("experiment", experiment_id): "EDIT",
            ("experiment", champions_id): "READ",
            ("registered_model", models.candidate): "EDIT",
            ("registered_model", models.champion): "READ",
        },
        REVIEWER: {
            ("experiment", experiment_id): "READ",
            ("experiment", champions_id): "EDIT",
            ("registered_model", models.candidate): "READ",
            ("registered_model", models.champion): "EDIT",
        },
    }

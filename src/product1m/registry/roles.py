"""Names of roles, models and the experiment, and what each role may do.

In MLflow the right to create a version of a registered model includes the right to move its
aliases. Duties are separate because there are three models: the pipeline may edit only the
candidate's, a reviewer only the champion's, a refresh only the catalogue's. Their files are
separate because there are three experiments: the right to edit one includes the right to change the
files of every model that was logged to it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from product1m.artifacts.model_parts import MODELS

PIPELINE, REVIEWER = "product1m-pipeline", "product1m-reviewer"
CATALOGUE = "product1m-catalogue"
"""Names of the three roles, and of their users unless others are given."""
EXPERIMENT = "product1m-training"
"""Experiment that the pipeline logs to, unless another name is given."""
CHALLENGER, CHAMPION = "challenger", "champion"
"""Aliases: the newest candidate, and the version that is served."""
CHAMPION_URI = f"{MODELS}product1m@{CHAMPION}"
"""Address of the promoted model, unless other names are given."""
CHAMPIONS = "product1m-champions"
"""Experiment that promotions log to, where only reviewers may write."""
CATALOGUES = "product1m-catalogues"
"""Experiment that refreshes of the catalogue log to, where only their role may write."""

Grants = Mapping[tuple[str, str], str]
"""Resource type and id to permission."""


@dataclass(frozen=True)
class ModelNames:
    """The registered models."""

    candidate: str
    """Written by the pipeline."""
    champion: str
    """Written by reviewers."""
    catalogue: str = "product1m-catalogue"
    """Written by refreshes of the catalogue."""


def grants(
    models: ModelNames, experiment_id: str, champions_id: str, catalogues_id: str
) -> dict[str, Grants]:
    """What each role may do.

    Args:
        models: names of the two models.
        experiment_id: of the experiment that the pipeline logs to.
        champions_id: of the experiment that promotions log to.
        catalogues_id: of the experiment that refreshes of the catalogue log to.
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
            ("experiment", catalogues_id): "READ",
            ("registered_model", models.catalogue): "READ",
        },
        CATALOGUE: {
            ("experiment", catalogues_id): "EDIT",
            ("experiment", champions_id): "READ",
            ("registered_model", models.catalogue): "EDIT",
            ("registered_model", models.champion): "READ",
        },
    }

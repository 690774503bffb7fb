"""The graph of a schedule with `when: drifted`: the catalogue, and the training if it is needed.

Only a cluster runs it. `kfp.local` skips conditions, so `run --when drifted` decides between two
graphs itself.
"""

from typing import Any

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from pipelines.graph.catalogue import refresh_task
from pipelines.graph.chain import evaluated_chain
from pipelines.graph.parameters import parameter
from pipelines.graph.training import TaskSetup, register, set_up
from product1m.config import Config
from product1m.registry.roles import CHAMPION_URI

NAME = "product1m-drift"


def drift_pipeline(config: Config, platform: TaskSetup | None = None) -> BaseComponent:
    """The pipeline whose parameters default to `config`.

    The refresh says whether the catalogue has moved too far from what the model knows, or whether
    there is no model yet; only then the tasks of the training run, cached on the data's state.
    """

    @dsl.pipeline(
        name=NAME, description="Refresh what can be found, and retrain if that has drifted."
    )
    def retrain_if_drifted(
        dataset_uri: str,
        dataset_digest: str = "",
        backgrounds_uri: str = "",
        backgrounds_digest: str = "",
        model: str = CHAMPION_URI,
        catalogue: dict[str, Any] = parameter(config, "catalogue"),
        ingestion: dict[str, Any] = parameter(config, "ingestion"),
        background_synthesis: dict[str, Any] = parameter(config, "background_synthesis"),
        rpn_training: dict[str, Any] = parameter(config, "rpn_training"),
        feature_extraction: dict[str, Any] = parameter(config, "feature_extraction"),
        capture_pretraining: dict[str, Any] = parameter(config, "capture_pretraining"),
        indexing: dict[str, Any] = parameter(config, "indexing"),
        evaluation: dict[str, Any] = parameter(config, "evaluation"),
        registration: dict[str, Any] = parameter(config, "registration"),
        storage: dict[str, Any] = parameter(config, "storage"),
        training_job: dict[str, Any] = parameter(config, "training_job"),
    ) -> None:
        given = dict(locals())  # every parameter by its name
        refreshed = refresh_task(given, model_required=False, platform=platform)
        with dsl.If(refreshed.outputs["drifted"] == "true", name="drifted"):
            chain = evaluated_chain(given, given)
            set_up([*chain, register(chain, registration)], platform)

    return retrain_if_drifted

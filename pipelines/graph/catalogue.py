"""The catalogue's graph: one task that refreshes, checks and registers, between retrainings."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from kfp import dsl
from kfp.dsl import PipelineTask
from kfp.dsl.base_component import BaseComponent

import components
from pipelines.graph.parameters import parameter
from pipelines.graph.training import TaskSetup, set_up
from product1m.config import Config
from product1m.registry.roles import CHAMPION_URI

NAME = "product1m-catalogue"


class CatalogueArtifacts(NamedTuple):
    """What a refresh produces."""

    catalogue: dsl.Model


def catalogue_pipeline(config: Config, platform: TaskSetup | None = None) -> BaseComponent:
    """The pipeline whose parameters default to `config`.

    Its task is never cached: an alias may lead to another model tomorrow, and the task itself finds
    out what changed. Over unchanged data it reads no photo and registers nothing.
    """

    @dsl.pipeline(
        name=NAME,
        description="Refresh what can be found: a gallery list and a promoted model to an index.",
    )
    def refresh(
        dataset_uri: str,
        model: str = CHAMPION_URI,
        catalogue: dict[str, Any] = parameter(config, "catalogue"),
        storage: dict[str, Any] = parameter(config, "storage"),
    ) -> CatalogueArtifacts:
        task = refresh_task(dict(locals()), model_required=True, platform=platform)
        return CatalogueArtifacts(catalogue=task.outputs["catalogue"])

    return refresh


def refresh_task(
    given: Mapping[str, Any], *, model_required: bool, platform: TaskSetup | None
) -> PipelineTask:
    """Add the task that refreshes to the current graph; `given` has its parameters by name."""
    task: PipelineTask = components.catalogue(
        dataset_uri=given["dataset_uri"],
        model=given["model"],
        model_required=model_required,
        config=given["catalogue"],
        storage=given["storage"],
    )
    set_up([task], platform, cache=False)
    return task

"""The training graph: the data's state, then eight steps; one parameter per section."""

from collections.abc import Collection, Iterable
from typing import Any, NamedTuple, Protocol

from kfp import dsl
from kfp.dsl import PipelineTask
from kfp.dsl.base_component import BaseComponent

import components
from pipelines.graph.chain import Chain, evaluated_chain
from pipelines.graph.parameters import parameter
from product1m.config import Config


class Artifacts(NamedTuple):
    """What a run produces: the state of its data, and every step's folder as summaries name it."""

    dataset_digest: str
    backgrounds_digest: str
    train: dsl.Dataset
    gallery: dsl.Dataset
    queries: dsl.Dataset
    scenes: dsl.Dataset
    rpn: dsl.Model
    train_features: dsl.Dataset
    scene_features: dsl.Dataset
    gallery_features: dsl.Dataset
    query_features: dsl.Dataset
    capture: dsl.Model
    index: dsl.Model
    evaluation: dsl.Dataset
    registration: dsl.Dataset


NAME = "product1m-training"


class TaskSetup(Protocol):
    """How tasks run: on a cluster, or in containers on this machine."""

    def apply(self, task: PipelineTask) -> None:
        """Set what the task needs there."""


def shown_name(task: PipelineTask) -> str:
    """A task's name as people read it: `feature_extraction/train`."""
    return str(task._task_spec.display_name or task.name).replace("-", "_")


def training_pipeline(
    config: Config,
    platform: TaskSetup | None = None,
    cache: bool = True,
    rerun: Collection[str] = (),
) -> BaseComponent:
    """The pipeline whose parameters default to `config`.

    Without `cache` every task always runs, otherwise those that `rerun` names as `runs show` does.
    Both are compiled in, because the cluster reads them from the tasks and not from a parameter.
    """

    @dsl.pipeline(
        name=NAME,
        description="Retrain instance-level product search: from lists and photos to a candidate.",
    )
    def training(
        dataset_uri: str,
        dataset_digest: str = "",
        backgrounds_uri: str = "",
        backgrounds_digest: str = "",
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
    ) -> Artifacts:
        given = dict(locals())  # every parameter by its name
        chain = evaluated_chain(given, given)
        registered = register(chain, registration)
        set_up((*chain, registered), platform, cache, rerun)
        return _artifacts(chain, registered)

    return training


def set_up(
    tasks: Iterable[PipelineTask],
    platform: TaskSetup | None,
    cache: bool = True,
    rerun: Collection[str] = (),
) -> None:
    """Set what the tasks need on the platform, and which of them do not use the cache."""
    for task in tasks:
        if not cache or shown_name(task) in rerun:
            task.set_caching_options(False)
        if platform:
            platform.apply(task)


def register(chain: Chain, config: Any) -> PipelineTask:
    """Add the task that registers the candidate."""
    return components.registration(
        rpn=chain.rpn.outputs["checkpoint"],
        capture=chain.capture.outputs["checkpoint"],
        index=chain.index.outputs["index"],
        evaluation=chain.evaluated.outputs["evaluation"],
        queries=chain.items.outputs["queries"],
        gallery=chain.items.outputs["gallery"],
        config=config,
    )


def _artifacts(chain: Chain, registered: PipelineTask) -> Artifacts:
    """The outputs of the graph."""
    return Artifacts(
        dataset_digest=chain.state.outputs["dataset_digest"],
        backgrounds_digest=chain.state.outputs["backgrounds_digest"],
        train=chain.items.outputs["train"],
        gallery=chain.items.outputs["gallery"],
        queries=chain.items.outputs["queries"],
        scenes=chain.scenes.outputs["scenes"],
        rpn=chain.rpn.outputs["checkpoint"],
        train_features=chain.train_features.outputs["features"],
        scene_features=chain.scene_features.outputs["features"],
        gallery_features=chain.gallery_features.outputs["features"],
        query_features=chain.query_features.outputs["features"],
        capture=chain.capture.outputs["checkpoint"],
        index=chain.index.outputs["index"],
        evaluation=chain.evaluated.outputs["evaluation"],
        registration=registered.outputs["registration"],
    )

"""The tasks from the lists to the evaluation, shared by several graphs."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from kfp.dsl import PipelineTask

import components


class Chain(NamedTuple):
    """The tasks in the order of the flow."""

    state: PipelineTask
    items: PipelineTask
    scenes: PipelineTask
    rpn: PipelineTask
    train_features: PipelineTask
    scene_features: PipelineTask
    gallery_features: PipelineTask
    query_features: PipelineTask
    capture: PipelineTask
    index: PipelineTask
    evaluated: PipelineTask


def evaluated_chain(data: Mapping[str, Any], sections: Mapping[str, Any]) -> Chain:
    """Add the tasks to the current graph.

    Args:
        data: the graph's data parameters, named as in `pipelines.graph.data.data_parameters`.
        sections: its configuration sections by name, those that several steps read included.
    """
    state = _state(data)
    items, scenes, rpn = _detector(data, state, sections)
    features = _features(items, scenes, rpn, sections)
    train, scene, gallery, queries = features
    capture = components.capture_pretraining(
        train_features=train.outputs["features"],
        scene_features=scene.outputs["features"],
        config=sections["capture_pretraining"],
        training_job=sections["training_job"],
    )
    index = components.indexing(
        gallery_features=gallery.outputs["features"],
        capture=capture.outputs["checkpoint"],
        config=sections["indexing"],
    )
    evaluated = components.evaluation(
        query_features=queries.outputs["features"],
        capture=capture.outputs["checkpoint"],
        index=index.outputs["index"],
        queries=items.outputs["queries"],
        gallery=items.outputs["gallery"],
        rpn=rpn.outputs["checkpoint"],
        config=sections["evaluation"],
    )
    return Chain(state, items, scenes, rpn, *features, capture, index, evaluated)


def _state(data: Mapping[str, Any]) -> PipelineTask:
    """The state of the data, computed in every run unless the run states it."""
    task: PipelineTask = components.data_state(
        dataset_uri=data["dataset_uri"],
        backgrounds_uri=data["backgrounds_uri"],
        stated_dataset=data["dataset_digest"],
        stated_backgrounds=data["backgrounds_digest"],
    )
    return task.set_caching_options(False)


def _detector(
    data: Mapping[str, Any], state: PipelineTask, sections: Mapping[str, Any]
) -> tuple[PipelineTask, PipelineTask, PipelineTask]:
    """Items, scenes made of them, and the network trained on the scenes."""
    items = components.ingestion(
        dataset_uri=data["dataset_uri"],
        dataset_digest=state.outputs["dataset_digest"],
        config=sections["ingestion"],
        storage=sections["storage"],
    )
    scenes = components.background_synthesis(
        products=items.outputs["train"],
        backgrounds_uri=data["backgrounds_uri"],
        backgrounds_digest=state.outputs["backgrounds_digest"],
        config=sections["background_synthesis"],
        storage=sections["storage"],
    )
    rpn = components.rpn_training(
        scenes=scenes.outputs["scenes"],
        config=sections["rpn_training"],
        training_job=sections["training_job"],
    )
    return items, scenes, rpn


def _features(
    items: PipelineTask, scenes: PipelineTask, rpn: PipelineTask, sections: Mapping[str, Any]
) -> tuple[PipelineTask, PipelineTask, PipelineTask, PipelineTask]:
    """Features of the training items, the scenes, the gallery and the queries."""
    train, scene, gallery, queries = (
        components.feature_extraction(
            images=task.outputs[part],
            rpn=rpn.outputs["checkpoint"],
            config=sections["feature_extraction"],
            storage=sections["storage"],
        ).set_display_name(f"feature-extraction/{part}")
        for task, part in (
            (items, "train"),
            (scenes, "scenes"),
            (items, "gallery"),
            (items, "queries"),
        )
    )
    return train, scene, gallery, queries

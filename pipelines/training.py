"""The training graph: eight steps, straight, every configuration section one parameter."""

from typing import Any, NamedTuple

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

import components
from pipelines.parameters import parameter
from pipelines.resources import Profile, request
from product1m.config import Config


class Artifacts(NamedTuple):
    """What a run leaves: every step's folder under the name used in its summary."""

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


def training_pipeline(config: Config, profile: Profile | None = None) -> BaseComponent:
    """The pipeline whose parameters default to `config`, its tasks sized for a profile."""

    @dsl.pipeline(
        name="product1m-training",
        description="Retrain instance-level product search: from lists and photos to a candidate.",
    )
    def training(
        dataset_uri: str,
        dataset_digest: str = "",
        backgrounds_uri: str = "",
        backgrounds_digest: str = "",
        ingestion: dict[str, Any] = parameter(config.ingestion),
        background_synthesis: dict[str, Any] = parameter(config.background_synthesis),
        rpn_training: dict[str, Any] = parameter(config.rpn_training),
        feature_extraction: dict[str, Any] = parameter(config.feature_extraction),
        capture_pretraining: dict[str, Any] = parameter(config.capture_pretraining),
        indexing: dict[str, Any] = parameter(config.indexing),
        evaluation: dict[str, Any] = parameter(config.evaluation),
        registration: dict[str, Any] = parameter(config.registration),
    ) -> Artifacts:
        items = components.ingestion(
            dataset_uri=dataset_uri, dataset_digest=dataset_digest, config=ingestion
        )
        scenes = components.background_synthesis(
            products=items.outputs["train"],
            backgrounds_uri=backgrounds_uri,
            backgrounds_digest=backgrounds_digest,
            config=background_synthesis,
        )
        rpn = components.rpn_training(scenes=scenes.outputs["scenes"], config=rpn_training)
        train_features, scene_features, gallery_features, query_features = (
            components.feature_extraction(
                images=task.outputs[part],
                rpn=rpn.outputs["checkpoint"],
                config=feature_extraction,
            ).set_display_name(f"feature-extraction/{part}")
            for task, part in (
                (items, "train"),
                (scenes, "scenes"),
                (items, "gallery"),
                (items, "queries"),
            )
        )
        capture = components.capture_pretraining(
            train_features=train_features.outputs["features"],
            scene_features=scene_features.outputs["features"],
            config=capture_pretraining,
        )
        index = components.indexing(
            gallery_features=gallery_features.outputs["features"],
            capture=capture.outputs["checkpoint"],
            config=indexing,
        )
        evaluated = components.evaluation(
            query_features=query_features.outputs["features"],
            capture=capture.outputs["checkpoint"],
            index=index.outputs["index"],
            queries=items.outputs["queries"],
            gallery=items.outputs["gallery"],
            config=evaluation,
        )
        registered = components.registration(
            rpn=rpn.outputs["checkpoint"],
            capture=capture.outputs["checkpoint"],
            index=index.outputs["index"],
            evaluation=evaluated.outputs["evaluation"],
            config=registration,
        )
        if profile:
            features = (train_features, scene_features, gallery_features, query_features)
            for task in (items, scenes, rpn, *features, capture, index, evaluated, registered):
                request(task, profile)
        return Artifacts(
            train=items.outputs["train"],
            gallery=items.outputs["gallery"],
            queries=items.outputs["queries"],
            scenes=scenes.outputs["scenes"],
            rpn=rpn.outputs["checkpoint"],
            train_features=train_features.outputs["features"],
            scene_features=scene_features.outputs["features"],
            gallery_features=gallery_features.outputs["features"],
            query_features=query_features.outputs["features"],
            capture=capture.outputs["checkpoint"],
            index=index.outputs["index"],
            evaluation=evaluated.outputs["evaluation"],
            registration=registered.outputs["registration"],
        )

    return training

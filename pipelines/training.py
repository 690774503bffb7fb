"""The training graph: eight steps, straight, every configuration section one parameter."""

from typing import Any, NamedTuple

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

import components
from pipelines.parameters import parameter
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


def training_pipeline(config: Config) -> BaseComponent:
    """The pipeline whose parameters default to `config`."""

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
        train, gallery, queries = (items.outputs[part] for part in ("train", "gallery", "queries"))
        scenes = components.background_synthesis(
            products=train,
            backgrounds_uri=backgrounds_uri,
            backgrounds_digest=backgrounds_digest,
            config=background_synthesis,
        ).outputs["scenes"]
        rpn = components.rpn_training(scenes=scenes, config=rpn_training).outputs["checkpoint"]

        def features_of(images: dsl.Dataset, part: str) -> dsl.Dataset:
            task = components.feature_extraction(images=images, rpn=rpn, config=feature_extraction)
            return task.set_display_name(f"feature-extraction/{part}").outputs["features"]

        train_features = features_of(train, "train")
        scene_features = features_of(scenes, "scenes")
        gallery_features = features_of(gallery, "gallery")
        query_features = features_of(queries, "queries")
        capture = components.capture_pretraining(
            train_features=train_features,
            scene_features=scene_features,
            config=capture_pretraining,
        ).outputs["checkpoint"]
        index = components.indexing(
            gallery_features=gallery_features, capture=capture, config=indexing
        ).outputs["index"]
        evaluated = components.evaluation(
            query_features=query_features,
            capture=capture,
            index=index,
            queries=queries,
            gallery=gallery,
            config=evaluation,
        ).outputs["evaluation"]
        registered = components.registration(
            rpn=rpn, capture=capture, index=index, evaluation=evaluated, config=registration
        ).outputs["registration"]
        return Artifacts(
            train,
            gallery,
            queries,
            scenes,
            rpn,
            train_features,
            scene_features,
            gallery_features,
            query_features,
            capture,
            index,
            evaluated,
            registered,
        )

    return training

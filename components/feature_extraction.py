"""Pipeline component `feature_extraction`."""

from typing import Any

from kfp import dsl

from components.images import image


@dsl.component(base_image=image("feature_extraction"), install_kfp_package=False)
def feature_extraction(
    images: dsl.Input[dsl.Dataset],
    rpn: dsl.Input[dsl.Model],
    config: dict[str, Any],
    storage: dict[str, Any],
    features: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Turn photos into the features of their proposed regions (paper)."""
    from pathlib import Path

    from product1m.config import FeatureExtractionConfig, StorageConfig
    from product1m.jobs.retries import with_retries
    from product1m.steps import feature_extraction

    scores = with_retries(
        "feature_extraction",
        lambda: feature_extraction.run(
            Path(images.path),
            Path(rpn.path),
            Path(features.path),
            FeatureExtractionConfig.model_validate(config),
            StorageConfig.model_validate(storage).root,
        ),
    )
    for name, value in scores.items():
        metrics.log_metric(name, float(value))
    Path(metrics.path).touch()  # without the file kfp.local does not use its cache

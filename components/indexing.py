"""Pipeline component `indexing`."""

from typing import Any

from kfp import dsl

from components.images import image


@dsl.component(base_image=image("indexing"), install_kfp_package=False)
def indexing(
    gallery_features: dsl.Input[dsl.Dataset],
    capture: dsl.Input[dsl.Model],
    config: dict[str, Any],
    index: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Embed the gallery and build the index that answers queries."""
    from pathlib import Path

    from product1m.config import IndexingConfig
    from product1m.jobs.retries import with_retries
    from product1m.steps import indexing

    scores = with_retries(
        "indexing",
        lambda: indexing.run(
            Path(gallery_features.path),
            Path(capture.path),
            Path(index.path),
            IndexingConfig.model_validate(config),
        ),
    )
    for name, value in scores.items():
        metrics.log_metric(name, float(value))
    Path(metrics.path).touch()  # without the file kfp.local does not use its cache

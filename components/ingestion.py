"""Pipeline component `ingestion`."""

from typing import Any

from kfp import dsl

from components.images import image


@dsl.component(base_image=image("ingestion"), install_kfp_package=False)
def ingestion(
    dataset_uri: str,
    dataset_digest: str,  # noqa: ARG001 — names the data's state, so that changed data runs
    config: dict[str, Any],
    storage: dict[str, Any],
    train: dsl.Output[dsl.Dataset],
    gallery: dsl.Output[dsl.Dataset],
    queries: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Read product lists and photos into item tables."""
    from pathlib import Path

    from product1m.artifacts.folder import identity_of
    from product1m.config import IngestionConfig, StorageConfig
    from product1m.jobs.retries import with_retries
    from product1m.steps import ingestion

    scores = with_retries(
        "ingestion",
        lambda: ingestion.run(
            dataset_uri,
            Path(train.path),
            Path(gallery.path),
            Path(queries.path),
            IngestionConfig.model_validate(config),
            StorageConfig.model_validate(storage).root,
        ),
    )
    for items in (train, gallery, queries):
        # Its own content, not the whole data set's: what did not change keeps what is behind it.
        items.metadata.update(identity_of(Path(items.path)))
    for name, value in scores.items():
        metrics.log_metric(name, float(value))
    Path(metrics.path).touch()  # without the file kfp.local does not use its cache

"""Pipeline component `catalogue`, which runs in the image of `registration`."""

from typing import Any

from kfp import dsl

from components.images import image


@dsl.component(base_image=image("registration"), install_kfp_package=False)
def catalogue(
    dataset_uri: str,
    model: str,
    model_required: bool,
    config: dict[str, Any],
    storage: dict[str, Any],
    catalogue: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    drifted: dsl.OutputPath(str),
) -> None:
    """Refresh the catalogue with a promoted model, check it, and move the alias `live`."""
    from pathlib import Path

    from product1m.config import CatalogueConfig, StorageConfig
    from product1m.jobs.retries import with_retries
    from product1m.steps import catalogue as step

    scores = with_retries(
        "catalogue",
        lambda: step.refresh_live(
            dataset_uri,
            model,
            Path(catalogue.path),
            CatalogueConfig.model_validate(config),
            StorageConfig.model_validate(storage).root,
            model_required=model_required,
        ),
    )
    Path(drifted).write_text("true" if scores["drifted"] else "false", "utf-8")
    for name, value in scores.items():
        metrics.log_metric(name, float(value))
    Path(metrics.path).touch()  # without the file kfp.local does not use its cache

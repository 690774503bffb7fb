"""Pipeline component `background_synthesis`."""

from typing import Any

from kfp import dsl

from components.images import image


@dsl.component(base_image=image("background_synthesis"), install_kfp_package=False)
def background_synthesis(
    products: dsl.Input[dsl.Dataset],
    backgrounds_uri: str,
    backgrounds_digest: str,  # noqa: ARG001 — names the photos' state, so that others run
    config: dict[str, Any],
    storage: dict[str, Any],
    scenes: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Paste cut-out products on backgrounds: scenes with known boxes (paper)."""
    from pathlib import Path

    from product1m.artifacts.folder import identity_of
    from product1m.config import BackgroundSynthesisConfig, StorageConfig
    from product1m.jobs.retries import with_retries
    from product1m.steps import background_synthesis

    scores = with_retries(
        "background_synthesis",
        lambda: background_synthesis.run(
            Path(products.path),
            backgrounds_uri,
            Path(scenes.path),
            BackgroundSynthesisConfig.model_validate(config),
            StorageConfig.model_validate(storage).root,
        ),
    )
    scenes.metadata.update(identity_of(Path(scenes.path)))
    for name, value in scores.items():
        metrics.log_metric(name, float(value))
    Path(metrics.path).touch()  # without the file kfp.local does not use its cache

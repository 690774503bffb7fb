"""Pipeline component `data_state`, which runs in the image of `ingestion`."""

from kfp import dsl

from components.images import image


@dsl.component(base_image=image("ingestion"), install_kfp_package=False)
def data_state(
    dataset_uri: str,
    backgrounds_uri: str,
    stated_dataset: str,
    stated_backgrounds: str,
    dataset_digest: dsl.OutputPath(str),
    backgrounds_digest: dsl.OutputPath(str),
) -> None:
    """Compute the state of the data, so that what follows runs only if it changed."""
    from pathlib import Path

    from product1m.jobs.retries import with_retries
    from product1m.steps.data_state import run

    state = with_retries(
        "data_state",
        lambda: run(dataset_uri, backgrounds_uri, stated_dataset, stated_backgrounds),
    )
    Path(dataset_digest).write_text(state["dataset_digest"], "utf-8")
    Path(backgrounds_digest).write_text(state["backgrounds_digest"], "utf-8")

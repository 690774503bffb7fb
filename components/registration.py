"""Pipeline component `registration`."""

from typing import Any

from kfp import dsl

from components.images import image


@dsl.component(base_image=image("registration"), install_kfp_package=False)
def registration(
    rpn: dsl.Input[dsl.Model],
    capture: dsl.Input[dsl.Model],
    index: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Dataset],
    queries: dsl.Input[dsl.Dataset],
    gallery: dsl.Input[dsl.Dataset],
    config: dict[str, Any],
    registration: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Register RPN, CAPTURE, tokenizer and index as one candidate model version."""
    import shutil
    from pathlib import Path

    from product1m.config import RegistrationConfig
    from product1m.jobs.retries import with_retries
    from product1m.registry.versions import PAGE
    from product1m.steps.registration import run

    scores = with_retries(
        "registration",
        lambda: run(
            Path(rpn.path),
            Path(capture.path),
            Path(index.path),
            Path(evaluation.path),
            Path(queries.path),
            Path(gallery.path),
            Path(registration.path),
            RegistrationConfig.model_validate(config),
        ),
    )
    shutil.copyfile(Path(registration.path) / PAGE, report.path)
    for name, value in scores.items():
        metrics.log_metric(name, float(value))
    Path(metrics.path).touch()  # without the file kfp.local does not use its cache

"""Pipeline component `rpn_training`."""

from typing import Any

from kfp import dsl

from components.images import image


@dsl.component(base_image=image("rpn_training"), install_kfp_package=False)
def rpn_training(
    scenes: dsl.Input[dsl.Dataset],
    config: dict[str, Any],
    training_job: dict[str, Any],
    checkpoint: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Train the class-agnostic region proposal network on synthesized scenes (paper)."""
    from pathlib import Path

    from product1m.config import RpnTrainingConfig, TrainingJobConfig
    from product1m.jobs.launch import launch
    from product1m.jobs.retries import with_retries
    from product1m.steps import rpn_training as step

    scores = with_retries(
        "rpn_training",
        lambda: launch(
            "rpn_training",
            step.run,
            [Path(scenes.path)],
            Path(checkpoint.path),
            RpnTrainingConfig.model_validate(config),
            TrainingJobConfig.model_validate(training_job),
        ),
    )
    for name, value in scores.items():
        metrics.log_metric(name, float(value))
    Path(metrics.path).touch()  # without the file kfp.local does not use its cache

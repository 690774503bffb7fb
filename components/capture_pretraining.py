"""Pipeline component `capture_pretraining`."""

from typing import Any

from kfp import dsl

from components.images import image


@dsl.component(base_image=image("capture_pretraining"), install_kfp_package=False)
def capture_pretraining(
    train_features: dsl.Input[dsl.Dataset],
    scene_features: dsl.Input[dsl.Dataset],
    config: dict[str, Any],
    training_job: dict[str, Any],
    checkpoint: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Pretrain CAPTURE, the hybrid-stream transformer, on titles and regions (paper)."""
    from pathlib import Path

    from product1m.config import CapturePretrainingConfig, TrainingJobConfig
    from product1m.jobs.launch import launch
    from product1m.jobs.retries import with_retries
    from product1m.steps import capture_pretraining as step

    scores = with_retries(
        "capture_pretraining",
        lambda: launch(
            "capture_pretraining",
            step.run,
            [Path(train_features.path), Path(scene_features.path)],
            Path(checkpoint.path),
            CapturePretrainingConfig.model_validate(config),
            TrainingJobConfig.model_validate(training_job),
        ),
    )
    for name, value in scores.items():
        metrics.log_metric(name, float(value))
    Path(metrics.path).touch()  # without the file kfp.local does not use its cache

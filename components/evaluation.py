"""Pipeline component `evaluation`."""

from typing import Any

from kfp import dsl

from components.images import image


@dsl.component(base_image=image("evaluation"), install_kfp_package=False)
def evaluation(
    query_features: dsl.Input[dsl.Dataset],
    capture: dsl.Input[dsl.Model],
    index: dsl.Input[dsl.Model],
    queries: dsl.Input[dsl.Dataset],
    gallery: dsl.Input[dsl.Dataset],
    rpn: dsl.Input[dsl.Model],
    config: dict[str, Any],
    evaluation: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Rank the gallery for every query and report how good the rankings are (paper)."""
    import shutil
    from pathlib import Path

    from product1m.config import EvaluationConfig
    from product1m.evaluation.artifact_files import REPORT
    from product1m.jobs.retries import with_retries
    from product1m.steps.evaluation import run

    scores = with_retries(
        "evaluation",
        lambda: run(
            Path(query_features.path),
            Path(capture.path),
            Path(index.path),
            Path(queries.path),
            Path(gallery.path),
            Path(evaluation.path),
            EvaluationConfig.model_validate(config),
            Path(rpn.path),
        ),
    )
    shutil.copyfile(Path(evaluation.path) / REPORT, report.path)
    for name, value in scores.items():
        metrics.log_metric(name, float(value))
    Path(metrics.path).touch()  # without the file kfp.local does not use its cache

"""A model at MLflow, found by what it was measured on."""

import pytest

from product1m.artifacts.folder import open_artifact
from product1m.registry.versions import ModelVersion
from product1m.telemetry.mlflow_client import registry_mlflow
from tests.support.worlds.registered_model import MlflowStore
from tests.support.worlds.tiny_world import TinyArtifacts

FIGURE = "evaluation/test/strict/shipped/mAP_at_10"


@pytest.mark.usefixtures("store")
def test_a_model_is_found_by_its_figures_on_a_data_set(
    made: TinyArtifacts, registered: ModelVersion, mlflow_store: MlflowStore
) -> None:
    client = registry_mlflow().MlflowClient()
    queries = open_artifact(made.queries, "ingestion", "queries")
    value = open_artifact(made.evaluation, "evaluation").manifest.metrics[
        "test/strict/shipped/mAP@10"
    ]
    on_these = {"dataset_name": "queries", "dataset_digest": queries.digest[:32]}

    def found(bound: float, digest: str) -> set[str]:
        models = client.search_logged_models(
            [mlflow_store.experiment],
            f"metrics.`{FIGURE}` > {bound}",
            datasets=[on_these | {"dataset_digest": digest}],
        )
        return {model.model_id for model in models}

    assert registered.model_id in found(value - 0.01, on_these["dataset_digest"])
    assert registered.model_id not in found(value + 0.01, on_these["dataset_digest"])
    assert found(value - 0.01, "0" * 32) == set()
    run = client.get_run(registered.run_id)
    names = {each.dataset.name for each in run.inputs.dataset_inputs}
    assert names == {"queries"}

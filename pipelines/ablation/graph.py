"""The graph of an ablation's cell: the training graph up to the evaluation, no registration."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from pipelines.graph.chain import evaluated_chain
from pipelines.graph.parameters import parameter
from pipelines.graph.training import TaskSetup
from pipelines.local.code import KeyedByCode
from pipelines.local.kfp_local import run_graph
from pipelines.local.mlflow_run import TrackedRun
from pipelines.local.run import cache_name, step_environment
from product1m.artifacts.folder import Artifact, open_artifact
from product1m.config import Config


class Measured(NamedTuple):
    """Outputs of a cell's graph."""

    evaluation: dsl.Dataset


def cell_pipeline(config: Config, platform: TaskSetup | None = None) -> BaseComponent:
    """Build the graph; its tasks are those of `training_pipeline`, so they share a cache."""
    sections = {name: parameter(config, name) for name in Config.model_fields}

    @dsl.pipeline(name="product1m-ablation", description="One cell of an ablation.")
    def cell(
        dataset_uri: str,
        dataset_digest: str = "",
        backgrounds_uri: str = "",
        backgrounds_digest: str = "",
    ) -> Measured:
        data = {
            "dataset_uri": dataset_uri,
            "dataset_digest": dataset_digest,
            "backgrounds_uri": backgrounds_uri,
            "backgrounds_digest": backgrounds_digest,
        }
        chain = evaluated_chain(data, sections)
        if platform:
            for task in chain:
                platform.apply(task)
        return Measured(evaluation=chain.evaluated.outputs["evaluation"])

    return cell


def run_in_graph(
    config: Config, arguments: Mapping[str, str], output: Path, tracked: TrackedRun
) -> Artifact:
    """Run a cell's graph with cached steps; return the verified evaluation.

    Raises PipelineError with the name of the failed step and its error message.
    """
    environment, cache = step_environment(output, tracked), cache_name(tracked, output)
    pipeline = cell_pipeline(config, KeyedByCode())
    _, outputs = run_graph(pipeline, arguments, output, environment, cache)
    evaluation = open_artifact(Path(outputs["evaluation"].path), "evaluation")
    evaluation.verify()
    return evaluation

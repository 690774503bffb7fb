"""The training pipeline on this machine: checked data, one MLflow run, a verified summary."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import product1m
from pipelines.dataset import data_parameters
from pipelines.local import run_graph
from pipelines.processes import only_run, steps_end_with_run
from pipelines.summary import RunSummary, summarize, verified
from pipelines.tracking import TrackedRun, start_run
from pipelines.training import training_pipeline
from product1m.artifacts import sha256_of
from product1m.config import Config
from product1m.errors import PipelineError


@dataclass(frozen=True)
class LocalRun:
    """What to run, on what, and where to."""

    config: Config
    preset: str
    dataset: str
    output: Path
    backgrounds: str = ""
    """Folder of background photos; the data set's own `backgrounds/` if empty and there."""
    use_cache: bool = True


def run_training(run: LocalRun) -> RunSummary:
    """Run the pipeline and write `summary.json`.

    Raises DatasetError or PipelineError; the latter names the step that failed and why.
    """
    arguments = data_parameters(run.dataset, run.backgrounds)
    output = run.output.expanduser().resolve()
    for name in ("dataset_uri", "backgrounds_uri"):
        if arguments[name] and output.is_relative_to(arguments[name]):
            raise PipelineError(
                f"{output}: lies in {arguments[name]}, which a run would change; choose another"
            )
    work = output / "work"
    work.mkdir(parents=True, exist_ok=True)
    with only_run(output, work), steps_end_with_run():
        tracked = start_run(output, {"preset": run.preset, **arguments})
        ending, metrics = "FAILED", {}
        try:
            summary = _run(run, arguments, output, tracked)
            ending, metrics = "FINISHED", summary.cached_metrics
            return summary
        except KeyboardInterrupt:
            ending = "KILLED"
            raise
        finally:
            tracked.end(ending, metrics)


def source_digest() -> str:
    """SHA-256 over the code that decides what a step computes."""
    package = Path(product1m.__file__).parent
    components = Path(__file__).parent.parent / "components"
    digest = hashlib.sha256()
    for root in (package, components):
        for path in sorted(root.rglob("*.*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(root)}\0{sha256_of(path)}\n".encode())
    return digest.hexdigest()


def _run(
    run: LocalRun, arguments: Mapping[str, str], output: Path, tracked: TrackedRun
) -> RunSummary:
    environment = {**tracked.environment, "PRODUCT1M_WORK": str(output / "work")}
    # Results of other code are void, and a registration belongs to the store it was made in.
    store = f"{source_digest()} {tracked.uri} {tracked.experiment_created}"
    cache = hashlib.sha256(store.encode()).hexdigest()[:16] if run.use_cache else ""
    pipeline = training_pipeline(run.config)
    steps, artifacts = run_graph(pipeline, arguments, output, environment, cache)
    summary = summarize(run.preset, arguments, steps, verified(artifacts), tracked)
    summary.write(output / "summary.json")
    return summary

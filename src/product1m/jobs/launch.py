"""Starting a training step: in this process, with `torchrun`, or as a TrainJob of several pods."""

from collections.abc import Callable, Sequence
from pathlib import Path

from product1m.artifacts.folder import open_artifact
from product1m.config import StepConfig, TrainingJobConfig
from product1m.jobs.torchrun import run_torchrun, step_command
from product1m.telemetry.processes import end_with_run, ended_by_sigterm


def launch(
    step: str,
    run: Callable[..., dict[str, float]],
    inputs: Sequence[Path],
    checkpoint: Path,
    config: StepConfig,
    job: TrainingJobConfig,
) -> dict[str, float]:
    """Run a training step with as many processes as `job` asks for; its metrics.

    When this process is ended by SIGTERM or fails, it ends everything that it started.

    Args:
        step: its name, which is its command too.
        run: its function, which runs it in this process: `run(*inputs, checkpoint, config)`.
        inputs: its input folders, in order.
        checkpoint: the artifact folder to write.
        config: its section.
        job: nodes, processes and time limits.

    Raises TrainingError if the processes fail, and whatever `run` raises in this process.
    """
    if job.num_nodes == job.processes_per_node == 1:
        return run(*inputs, checkpoint, config)
    end_with_run()
    with ended_by_sigterm():
        if job.num_nodes > 1:
            from product1m.jobs import train_job  # only this needs the Kubernetes client

            train_job.run(step, inputs, checkpoint, config, job)
        else:
            run_torchrun(step, step_command(step, inputs, checkpoint, config), job)
    return open_artifact(checkpoint, step).manifest.metrics

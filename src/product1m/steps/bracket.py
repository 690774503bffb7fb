"""The one `with` that opens every step: log context, MLflow run, artifacts, failure tags, metrics.

A step opens it first and reads its inputs inside, so that whatever goes wrong leaves the tags
`failed_step` and `error` on the MLflow run, and no artifact. When the block ends without an error
the artifacts appear, whole, and only then the metrics and pictures go to MLflow: if the server
cannot be reached then, the log entries are lost, not the work.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from product1m.artifacts.folder import Artifact, ArtifactWriter, write_artifact
from product1m.artifacts.work import locked_work_folder, remove_work_folder
from product1m.config import StepConfig
from product1m.telemetry.processes import (
    end_with_run,
    ended_by_sigterm,
    spare_loaded_objects,
)
from product1m.telemetry.tracking import StepRun, step_run


class OpenStep:
    """A step at work: what it reads, the artifacts it writes, and its MLflow run."""

    def __init__(
        self,
        tracking: StepRun,
        writers: dict[str, ArtifactWriter],
        open_work: Callable[[Mapping[str, Artifact]], Path] | None = None,
    ) -> None:
        self.tracking = tracking
        """The MLflow run, for curves and pictures that should not wait for the end."""
        self.writers = writers
        """Writers by part; a step that writes one artifact uses `writer`."""
        self.inputs: dict[str, Artifact] = {}
        self._attached: list[str] = []
        self._open_work = open_work
        self._work: Path | None = None

    @property
    def writer(self) -> ArtifactWriter:
        """The step's only artifact."""
        (writer,) = self.writers.values()
        return writer

    @property
    def folder(self) -> Path:
        """Where the files of the only artifact go."""
        return self.writer.folder

    @property
    def metrics(self) -> dict[str, float]:
        """The only artifact's metrics: what MLflow, summary and registry show of the step."""
        return self.writer.metrics

    @property
    def details(self) -> dict[str, Any]:
        """What a reader of the only artifact needs to know."""
        return self.writer.details

    def read(self, inputs: Mapping[str, Artifact]) -> dict[str, Artifact]:
        """Record what the step reads in every artifact it writes; returns the same inputs.

        Raises ArtifactError at once if a file of an input is missing.
        """
        for artifact in inputs.values():
            artifact.require_files()
        self.inputs |= inputs
        for writer in self.writers.values():
            writer.add_inputs(inputs)
        return dict(inputs)

    def work_folder(self) -> Path:
        """Folder for what the next attempt continues from; a step that ended well removes it.

        It belongs to the inputs that were read and to the section. LockedError if another run uses
        it.
        """
        if self._work is None:
            if self._open_work is None:
                raise RuntimeError("a step with several artifacts has no work folder")
            self._work = self._open_work(self.inputs)
        return self._work

    def attach(self, *names: str) -> None:
        """Name files of the only artifact that MLflow gets when the artifact is whole."""
        self._attached += names

    def all_metrics(self) -> dict[str, float]:
        """The metrics of every artifact; of several as `part/name`."""
        if len(self.writers) == 1:
            return dict(self.metrics)
        return {
            f"{part}/{name}": value
            for part, writer in self.writers.items()
            for name, value in writer.metrics.items()
        }

    def report(self, folder: Path) -> None:
        """Log metrics and attached files of artifacts that are whole; `folder` holds the files."""
        self.tracking.log_metrics(self.all_metrics())
        for name in self._attached:
            self.tracking.log_file(folder / name)

    def remove_work(self) -> None:
        """Remove the work folder, if there is one; the last thing that a step does.

        With several ranks it comes after all have ended: one that fails late makes the step run
        again.
        """
        if self._work is not None:
            remove_work_folder(self._work)


@contextmanager
def open_step(
    step: str, config: StepConfig, folder: Path, part: str = "", storage_root: str = ""
) -> Iterator[OpenStep]:
    """Open a step that writes one artifact at `folder`.

    Its metrics go to MLflow as `step/name`, or `step/part/name`. With a storage root, a folder or
    `s3://` prefix, bulk files go there.
    """
    with _running(step, config, part, [folder]) as (tracking, locks):
        with write_artifact(folder, step, config, part=part, storage_root=storage_root) as writer:
            tracking.end_killed_runs()
            open_work = partial(_open_work, locks, folder, step, config)
            opened = OpenStep(tracking, {part: writer}, open_work)
            yield opened
        opened.report(folder)


@contextmanager
def open_step_with_parts(
    step: str, config: StepConfig, folders: Mapping[str, Path], storage_root: str = ""
) -> Iterator[OpenStep]:
    """Open a step that writes several artifacts, given as part to folder."""
    with _running(step, config, "", list(folders.values())) as (tracking, _):
        with ExitStack() as stack:
            writers = {
                part: stack.enter_context(
                    write_artifact(folder, step, config, part=part, storage_root=storage_root)
                )
                for part, folder in folders.items()
            }
            tracking.end_killed_runs()
            opened = OpenStep(tracking, writers)
            yield opened
        tracking.log_metrics(opened.all_metrics())


@contextmanager
def _running(
    step: str, config: StepConfig, part: str, folders: Sequence[Path]
) -> Iterator[tuple[StepRun, ExitStack]]:
    """The step's MLflow run, and a stack of contexts that close when the step ends."""
    spare_loaded_objects()
    end_with_run()
    with (
        ended_by_sigterm(),
        step_run(step, config, part, folders[0]) as tracking,
        ExitStack() as stack,
    ):
        yield tracking, stack


def _open_work(
    stack: ExitStack, folder: Path, step: str, config: StepConfig, inputs: Mapping[str, Artifact]
) -> Path:
    return stack.enter_context(locked_work_folder(folder, step, config, inputs))

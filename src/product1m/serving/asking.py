"""Let a model answer its example in a process of its own, without credentials.

The process gets none of the environment's passwords, keys and addresses, and an empty home:
whatever loading a model does, it does without the rights of the reviewer who promotes it.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from product1m.errors import RegistryError
from product1m.serving.signatures import KEYS, ROOTS, Trust
from product1m.storage.scratch import scratch_folder
from product1m.telemetry.environment import bare_environment

_RANKINGS = TypeAdapter(list[list[str]])
_LINES = 20
"""Number of lines of the process's output that are shown if it fails."""


def ask_apart(folder: Path, trust: Trust, title: str) -> list[list[str]]:
    """Rankings of the input example by an MLflow model's folder, as MLflow loads it.

    Args:
        folder: of the model; verified before it is loaded.
        trust: whose signature counts there.
        title: of the version, for messages.

    Raises RegistryError if it does not load or answer.
    """
    with scratch_folder() as home:
        answered = home / "answers.json"
        environment = bare_environment(home) | {
            KEYS: os.pathsep.join(str(key.resolve()) for key in trust.keys),
            ROOTS: os.pathsep.join(str(root.resolve()) for root in trust.roots),
        }
        # -P: nothing is imported from the folder that the process starts in.
        command = [sys.executable, "-P", "-m", "product1m.serving.asking"]
        ended = subprocess.run(
            [*command, str(folder.resolve()), str(answered)],
            cwd=home,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if ended.returncode or not answered.is_file():
            words = "\n".join(ended.stderr.strip().splitlines()[-_LINES:])
            raise RegistryError(
                f"{title}: does not load and answer its input example here; promote from an "
                f"installation that its requirements.txt describes. Its output:\n{words}"
            )
        rankings = _parsed(answered.read_bytes(), title)
    if not rankings or not all(rankings):
        raise RegistryError(
            f"{title}: expected a ranking for its input example, got rankings of "
            f"{[len(ranking) for ranking in rankings]} items"
        )
    return rankings


def _parsed(answer: bytes, title: str) -> list[list[str]]:
    try:
        return _RANKINGS.validate_json(answer)
    except ValidationError as error:
        raise RegistryError(f"{title}: its answer is not a list of rankings: {error}") from error


def _main(folder: str, answered: str) -> None:
    import warnings

    from product1m.telemetry.mlflow_client import import_mlflow

    warnings.simplefilter("ignore")
    model = import_mlflow().pyfunc.load_model(folder)
    rankings = [list(ids) for ids in model.predict(model.input_example)["ids"]]
    Path(answered).write_text(json.dumps(rankings), "utf-8")


if __name__ == "__main__":
    try:
        _main(*sys.argv[1:])
    except Exception as error:  # a model that does not load can fail in any way
        sys.exit(f"{type(error).__name__}: {error}")

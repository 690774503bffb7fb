"""A training step that `torchrun` starts in tests; rank 0 writes its loss curve.

Arguments: the step, its section as JSON, a file for the curve, the step's folders. With
`DIE_AT_STEP=N` rank 1 kills itself at step N, once; with `FAIL_AT_STEP=N` it raises an error there;
with `FAIL_AFTER_TRAINING=R` rank R raises one after its last step.
"""

import importlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from product1m.config import section_model
from product1m.errors import DatasetError
from product1m.training import distributed

step, section, curve_file, *folders = sys.argv[1:]
module: Any = importlib.import_module(f"product1m.steps.{step}")
train = module.train


def train_and_record(network: Any, losses: Any, batch_at: Any, plan: Any, **rest: Any) -> Any:
    def at(number: int) -> Any:
        if distributed.rank() == 1:
            disturb(number)
        return batch_at(number)

    curve = train(network, losses, at, plan, **rest)
    if os.environ.get("FAIL_AFTER_TRAINING") == str(distributed.rank()):
        raise OSError("No space left on device")
    if distributed.rank() == 0:
        Path(curve_file).write_text(json.dumps(curve))
    return curve


def disturb(number: int) -> None:
    if number == int(os.environ.get("DIE_AT_STEP", "-1")):
        died = Path(f"{curve_file}.died")
        if not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    if number == int(os.environ.get("FAIL_AT_STEP", "-1")):
        raise DatasetError("shard-7: cut short")


module.train = train_and_record
module.run(*map(Path, folders), section_model(step).model_validate_json(section))

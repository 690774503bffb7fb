"""A process that has imported everything and forks for every attempt at a scenario.

Reads a JSON line for each attempt, answers with one: `{"signal", "names", "error", "facts"}`, and
`"states"` and `"written"` of a watched one (see `Shim`). A fork costs milliseconds, starting Python
and importing torch some seconds.
"""

import contextlib
import gc
import importlib
import json
import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import torch._dynamo  # noqa: F401 makes a temporary folder; an optimizer would import it

from tests.support.kills.quick import make_quick
from tests.support.kills.scenarios import FACTS, SCENARIOS
from tests.support.kills.shim import Shim


def serve() -> None:
    """Answer requests until the input ends."""
    sys.dont_write_bytecode = True  # a kill in the middle of a write would leave a damaged one
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing else may print between the answers
    make_quick(Path(sys.argv[1]))
    for line in sys.stdin:
        answer = attempt(json.loads(line))
        for name in answer.pop("modules"):
            _import(name)
        print(json.dumps(answer), file=answers, flush=True)


def attempt(request: dict[str, Any]) -> dict[str, Any]:
    """Run a scenario in a child process; its signal, operations and error."""
    reader, writer = os.pipe()
    gc.freeze()  # the child would read every object, and so copy all memory, to find garbage
    child = os.fork()
    if child == 0:
        os.close(reader)
        _run(request, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    killed = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    answer: dict[str, Any] = {
        "signal": killed,
        "names": [],
        "states": [],
        "written": [],
        "error": "",
        "facts": {},
        "modules": [],
    }
    return answer | (json.loads(text) if text else {})


def _run(request: dict[str, Any], writer: int) -> None:
    error, known = "", set(sys.modules)
    facts: dict[str, Any] = {}
    sandbox, name = Path(request["sandbox"]), request["scenario"]
    shim = Shim(
        sandbox,
        request.get("at", 0),
        request.get("how", "before"),
        watched=request.get("watched", False),
    )
    try:
        os.chdir(sandbox)
        (sandbox / "tmp").mkdir(exist_ok=True)
        tempfile.tempdir = os.environ["TMPDIR"] = str(sandbox / "tmp")
        shim.install()
        SCENARIOS[name](Path(request["world"]), sandbox)
        shim.stop()
        if name in FACTS and not request.get("at"):
            facts = FACTS[name](sandbox)
    except BaseException:
        error = traceback.format_exc()
    modules = sorted({*sys.modules} - known)
    answer = {
        "names": shim.names,
        "states": shim.states,
        "written": shim.written,
        "error": error,
        "facts": facts,
        "modules": modules,
    }
    with os.fdopen(writer, "wb") as pipe:
        pipe.write(json.dumps(answer).encode())
    os._exit(0)


def _import(name: str) -> None:
    """Import what an attempt imported late, so that the next one finds it."""
    with contextlib.suppress(Exception):
        importlib.import_module(name)


if __name__ == "__main__":
    serve()

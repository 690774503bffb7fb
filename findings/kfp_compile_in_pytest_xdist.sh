#!/usr/bin/env bash
# KFP: compiling a pipeline is several times slower in a worker of pytest-xdist than in plain pytest.
#
# Seen with kfp 2.17.0, pytest 9.2.0 and pytest-xdist 3.8.0: each setting of a task
# (`set_env_variable`, `set_cpu_limit`, ...) calls `inspect.stack()` with source lines. The lowest
# frames of a worker were executed from text, so they have no file, and for each of them Python visits
# every loaded module, at every call. The same test then spends most of its time there.
# Lesson: in conftest.py, let `inspect.stack` return names alone; kfp reads only the caller's name.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    kfp==2.17.0 pytest==9.2.0 pytest-xdist==3.8.0
cat > "$folder/test_compile.py" <<'PYTHON'
import os
import time

from kfp import dsl


@dsl.container_component
def step():
    return dsl.ContainerSpec(image="python:3.11-slim", command=["true"])


def test_compile():
    start = time.process_time()

    @dsl.pipeline
    def pipeline():
        for _ in range(10):
            task = step()
            for number in range(20):
                task.set_env_variable(f"NAME_{number}", "value")

    with open(os.environ["RESULT"], "w") as result:
        result.write(str(time.process_time() - start))
PYTHON
cd "$folder"
RESULT=plain venv/bin/pytest -q test_compile.py > log 2>&1 || { cat log; exit 1; }
RESULT=worker venv/bin/pytest -q -n 1 test_compile.py > log 2>&1 || { cat log; exit 1; }
echo "CPU seconds for 200 settings: plain $(cat plain), in a worker $(cat worker)"
venv/bin/python -c 'plain, worker = (float(open(name).read()) for name in ("plain", "worker"))
raise SystemExit(worker < 2 * plain)'

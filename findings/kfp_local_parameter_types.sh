#!/usr/bin/env bash
# kfp: a whole number inside a dict reaches a local step as a float, and None inside a dict is refused.
#
# Seen with kfp 2.17.0 and `kfp.local.SubprocessRunner`: {"count": 3} arrives as {"count": 3.0}, so
# `range(config["count"])` fails in a local run, and an index of 2**53 + 1 loses its last digit. A
# cluster's launcher gives the int. {"name": None} raises ValueError before the step starts.
# Lesson: validate a dict parameter where it arrives, and let the validation restore its integers.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check kfp==2.17.0
cat > "$folder/step.py" <<'PYTHON'
import json
import tempfile
from pathlib import Path

from kfp import dsl, local

folder = Path(tempfile.mkdtemp())
local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(folder / "root"))


@dsl.component(install_kfp_package=False)
def show(config: dict, path: str) -> None:
    import json
    from pathlib import Path

    Path(path).write_text(json.dumps({name: [type(value).__name__, value] for name, value in config.items()}))


show(config={"count": 3, "large": 2**53 + 1}, path=str(folder / "seen.json"))
seen = json.loads((folder / "seen.json").read_text())
print(seen)
assert seen["count"] == ["float", 3.0], seen
assert seen["large"][0] == "float" and int(seen["large"][1]) == 2**53, seen
try:
    show(config={"name": None}, path=str(folder / "none.json"))
except ValueError as error:
    print("None inside a dict: ValueError:", error)
else:
    raise SystemExit("None inside a dict was accepted")
PYTHON
"$folder/venv/bin/python" "$folder/step.py" 2>&1 | grep -E "^(\{|None|Traceback|AssertionError)"

#!/usr/bin/env bash
# KFP: the cache of `kfp.local` answers a copied folder with files of the original one.
#
# Seen with kfp 2.17.0: an entry of the cache names artifacts by absolute paths, and a key contains
# the paths of the inputs. So when `pipeline_root` and `cache_root` are copied to another folder, a
# run there is a hit whose artifacts lie in the original folder; and when they are moved, every task
# runs again, although nothing changed.
# Lesson: keep paths relative to the root in entries and keys (override `LocalCache`), or start anew.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check kfp==2.17.0
cat > "$folder/run.py" <<'PYTHON'
import sys
from pathlib import Path

from kfp import dsl, local


@dsl.component(install_kfp_package=False)
def write(text: str, data: dsl.Output[dsl.Dataset]):
    with open(data.path, "w") as file:
        file.write(text)


@dsl.component(install_kfp_package=False)
def double(data: dsl.Input[dsl.Dataset], doubled: dsl.Output[dsl.Dataset]):
    with open(data.path) as read, open(doubled.path, "w") as written:
        written.write(read.read() * 2)


@dsl.pipeline
def graph(text: str) -> dsl.Dataset:
    return double(data=write(text=text).output).output


root = Path(sys.argv[1])
local.init(
    local.SubprocessRunner(use_venv=False),
    pipeline_root=str(root / "pipeline"),
    enable_caching=True,
    cache_root=str(root / "cache"),
)
print("RESULT", graph(text="a").output.path)
PYTHON
cd "$folder"
run() {
    venv/bin/python run.py "$folder/$1" > log 2>&1 || { cat log; exit 1; }
    grep -o 'RESULT .*' log | sed "s#RESULT $folder/##" | cut -d / -f 1
}
first="$(run first)"
cp -a first copied
copied="$(run copied)"
mv first moved
moved="$(run moved)"
tasks="$(ls -d moved/pipeline/* | wc -l)"
hits="$(grep -c 'cache hit' log || true)"
echo "result of the first run in: $first; of the copy in: $copied; of the moved folder in: $moved, cache hits there: $hits"
[[ $first == first && $copied == first && $moved == moved && $hits == 0 && $tasks -ge 1 ]]

#!/usr/bin/env bash
# FAISS: after a removal, IndexIDMap2 over an IVF index answers with the ids of other items.
#
# Seen with faiss-cpu 1.15.1: `remove_ids` on `IDMap2,IVF8,Flat` returns the right number and raises
# nothing, but the map's list of ids moves up while the IVF lists keep the old positions. Items that
# are still in the index are then reported under the ids of their neighbors. `IDMap2,Flat` and the
# IVF's own `add_with_ids` stay right.
# Lesson: give ids to the IVF index itself.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check faiss-cpu==1.15.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import faiss
import numpy as np

vectors = np.random.default_rng(0).standard_normal((1000, 16)).astype("float32")
ids = np.arange(1000) + 5000
right = {}
for factory in ("IDMap2,IVF8,Flat", "IDMap2,Flat", "IVF8,Flat"):
    index = faiss.index_factory(16, factory)
    index.train(vectors)
    index.add_with_ids(vectors, ids)
    if "IVF" in factory:
        faiss.extract_index_ivf(index).nprobe = 8
    removed = index.remove_ids(ids[:100])
    found = index.search(vectors[100:], 1)[1][:, 0]
    right[factory] = float((found == ids[100:]).mean())
    print(f"{factory}: {removed} removed, {right[factory]:.3f} of the others come back as themselves")
    assert removed == 100
assert right["IDMap2,Flat"] == right["IVF8,Flat"] == 1
assert right["IDMap2,IVF8,Flat"] < 0.5, right
PYTHON

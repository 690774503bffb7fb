#!/usr/bin/env bash
# FAISS: a fast-scan index that is refreshed in place (remove_ids, then add) forgets what is added.
#
# Seen with faiss-cpu 1.15.1: `remove_ids` on an IVF index with 4-bit fast-scan codes leaves the old
# codes in the freed slots, and the next `add` merges the new codes into them. After one third of
# 3,000 items was replaced, only 85 in 100 of the new items are their own nearest neighbor;
# no call raises. The same refresh of `IVF16,SQ8` keeps every item at 1.00.
# Lesson: rebuild a fast-scan index when the catalogue changes, or use another kind.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check faiss-cpu==1.15.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import faiss
import numpy as np

rng = np.random.default_rng(0)


def unit(count: int) -> np.ndarray:
    vectors = rng.standard_normal((count, 64)).astype("float32")
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


old, new = unit(3000), unit(1000)
shares = {}
for factory in ("IVF16,PQ32x4fs", "IVF16,SQ8"):
    index = faiss.index_factory(64, factory, faiss.METRIC_INNER_PRODUCT)
    index.train(old)
    reference = faiss.clone_index(index)
    index.nprobe = reference.nprobe = 16
    index.add(old)
    index.remove_ids(np.arange(1000))
    index.add_with_ids(new, np.arange(1000))
    reference.add_with_ids(np.concatenate([new, old[1000:]]), np.arange(3000))
    for name, searched in (("refreshed", index), ("built anew", reference)):
        found = searched.search(new, 1)[1][:, 0]
        shares[factory, name] = float((found == np.arange(1000)).mean())
        print(f"{factory}, {name}: {shares[factory, name]:.3f} of the new items find themselves")
assert shares["IVF16,SQ8", "refreshed"] > 0.99
assert shares["IVF16,PQ32x4fs", "built anew"] - shares["IVF16,PQ32x4fs", "refreshed"] > 0.03, shares
PYTHON

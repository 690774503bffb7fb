#!/usr/bin/env bash
# pycocotools: an annotation with id 0 never matches, and another list of maxDets gives AP -1.
#
# Seen with pycocotools 2.0.11: `COCOeval` stores the id of the matched annotation and reads 0 as
# "no match", so one perfect detection of an annotation with id 0 scores AP 0.0, with id 1 AP 1.0.
# `summarize` looks for 100 in `params.maxDets`; with [1, 10, 150] the first figure is -1 and
# nothing says why.
# Lesson: start annotation ids at 1, and keep 100 among maxDets or read `eval["precision"]`.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pycocotools==2.0.11 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import contextlib
import io

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def average_precision(annotation_id: int, max_detections: list[int]) -> float:
    box = [10, 10, 40, 40]
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": 1, "width": 100, "height": 100}],
        "categories": [{"id": 1, "name": "product"}],
        "annotations": [
            {"id": annotation_id, "image_id": 1, "category_id": 1, "bbox": box, "area": 1600, "iscrowd": 0}
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        found = truth.loadRes([{"image_id": 1, "category_id": 1, "bbox": box, "score": 0.9}])
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.params.maxDets = max_detections
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


seen = [
    average_precision(1, [1, 10, 100]),
    average_precision(0, [1, 10, 100]),
    average_precision(1, [1, 10, 150]),
]
print("a perfect detection: AP", seen[0], "; annotation id 0:", seen[1], "; maxDets up to 150:", seen[2])
assert [round(value, 6) for value in seen] == [1.0, 0.0, -1.0], seen
PYTHON

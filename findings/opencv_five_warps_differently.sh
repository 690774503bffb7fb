#!/usr/bin/env bash
# OpenCV: the same warp gives other pixels in version 5 than in version 4.
#
# Seen with opencv-python-headless 4.13.0.92 and 5.0.0.93 on one picture: `warpAffine` with bilinear
# interpolation differs by up to 4 levels, because version 5 no longer rounds source positions to
# 1/32 of a pixel. `resize`, `GaussianBlur` and SIFT descriptors are equal to the last bit.
# Lesson: pictures that are drawn or augmented with warps change with OpenCV's major version.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cat > "$folder/pictures.py" <<'PYTHON'
import sys

import cv2
import numpy as np

rng = np.random.default_rng(0)
picture = cv2.resize(rng.integers(0, 255, (24, 32, 3), dtype=np.uint8), (320, 240), interpolation=cv2.INTER_CUBIC)
turn = cv2.getRotationMatrix2D((160, 120), 17, 1.1)
descriptors = cv2.SIFT_create().detectAndCompute(picture, None)[1]
np.savez(
    sys.argv[1],
    warpAffine=cv2.warpAffine(picture, turn, (320, 240), flags=cv2.INTER_LINEAR),
    resize=cv2.resize(picture, (101, 77), interpolation=cv2.INTER_AREA),
    GaussianBlur=cv2.GaussianBlur(picture, (0, 0), 2.0),
    SIFT=descriptors,
)
PYTHON
for version in 4.13.0.92 5.0.0.93; do
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/pip" install --quiet --disable-pip-version-check \
        "opencv-python-headless==$version" numpy==2.4.6
    "$folder/$version/bin/python" "$folder/pictures.py" "$folder/$version.npz"
done
"$folder/5.0.0.93/bin/python" - "$folder" <<'PYTHON'
import sys

import numpy as np

old, new = (np.load(f"{sys.argv[1]}/{version}.npz") for version in ("4.13.0.92", "5.0.0.93"))
largest = {}
for name in old.files:
    same_shape = old[name].shape == new[name].shape
    largest[name] = float(np.abs(old[name].astype(float) - new[name]).max()) if same_shape else None
    print(f"{name}: largest difference {largest[name]}")
assert 1 <= largest.pop("warpAffine") <= 8
assert set(largest.values()) == {0.0}, largest
PYTHON

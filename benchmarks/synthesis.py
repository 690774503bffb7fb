"""Measure the speed of cutting out products against GrabCut at full resolution in one process.

    python benchmarks/synthesis.py --preset reference --workers 2

Both use the same photos, iterations and frame. The photos show products of the sample split,
1000 px wide; with `--photos FOLDER` they are the first photos of a folder.
"""

import argparse
import json
import os
import time
from pathlib import Path

import cv2
import numpy as np

from product1m.config import BackgroundSynthesisConfig, load_config
from product1m.data.photos import Photo, decode_photo, resize_photo
from product1m.sample.drawn.plan import SampleSizes, plan_rows
from product1m.sample.drawn.rendering import render_with_boxes
from product1m.synthesis.cutouts import CutoutSettings, cut
from product1m.synthesis.grabcut import cut_out
from product1m.synthesis.parallel import WorkerProcesses

SIDE_PX = 1000
NUM_PHOTOS = 2
REPEATS = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", choices=["sample", "reference"], default="reference")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--photos", type=Path, help="folder of photos")
    arguments = parser.parse_args()
    config = load_config(arguments.preset).background_synthesis
    photos = read_photos(arguments.photos) if arguments.photos else render_photos()
    print(json.dumps(measure(photos, config, arguments.workers), indent=2))


def render_photos() -> list[Photo]:
    rows = [row for row in plan_rows(SampleSizes(), 0)["train"] if row.photo_kind == "single"]
    return [enlarged(render_with_boxes(row)[0]) for row in rows[:NUM_PHOTOS]]


def read_photos(folder: Path) -> list[Photo]:
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".png"))
    return [enlarged(decode_photo(path.read_bytes(), path.name)) for path in paths[:NUM_PHOTOS]]


def enlarged(photo: Photo) -> Photo:
    return resize_photo(photo, SIDE_PX / max(photo.shape[:2]))


def measure(
    photos: list[Photo], config: BackgroundSynthesisConfig, num_workers: int
) -> dict[str, float]:
    """Photos per second of both methods, and their ratio."""
    settings = CutoutSettings.from_config(config)
    with WorkerProcesses(num_workers) as workers:
        # Every process imports and warms up before the measurement starts.
        list(workers.map(cut_reduced, [(photos[0], settings)] * num_workers * 4))
        started = time.perf_counter()
        done = list(workers.map(cut_reduced, [(photo, settings) for photo in photos] * REPEATS))
        reduced = len(done) / (time.perf_counter() - started)
    started = time.perf_counter()
    for photo in photos:
        cut_full(photo, config)
    full = len(photos) / (time.perf_counter() - started)
    return {
        "side_px": SIDE_PX,
        "workers": num_workers,
        "full resolution, one process, photos/s": round(full, 3),
        "background_synthesis, photos/s": round(reduced, 2),
        "background_synthesis, photos/s per process": round(reduced / num_workers, 2),
        "ratio": round(reduced / full, 1),
    }


def cut_reduced(task: tuple[Photo, CutoutSettings]) -> int:
    """Cut out as the step does, from a decoded photo."""
    photo, settings = task
    mask, reason = cut(photo, settings)
    return 0 if reason else cut_out(photo, mask, settings.max_side_px).size


def cut_full(photo: Photo, config: BackgroundSynthesisConfig) -> int:
    """Call GrabCut in the usual way: the whole photo and a rectangle."""
    height, width = photo.shape[:2]
    left, top = round(width * config.grabcut_margin), round(height * config.grabcut_margin)
    labels = np.zeros((height, width), np.uint8)
    rectangle = (left, top, width - 2 * left, height - 2 * top)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(photo, labels, rectangle, *models, config.grabcut_iterations, cv2.GC_INIT_WITH_RECT)
    return int(labels.sum())


if __name__ == "__main__":
    main()

"""Real runs of every step up to the evaluation, on a few drawn packs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from product1m.config import Config, EvaluationConfig, load_config
from product1m.data.photos import Photo, encode_jpeg
from product1m.steps import (
    background_synthesis,
    capture_pretraining,
    evaluation,
    feature_extraction,
    indexing,
    ingestion,
    rpn_training,
)
from tests.support.worlds.tiny_world import TinyArtifacts

NAMES = ("rose", "aloe", "clay", "pearl", "mint", "oat", "fig", "iris")
SIDE_PX = 120

CONFIG: Config = load_config(
    "sample",
    [
        "ingestion.num_workers=1",
        "background_synthesis.num_scenes=12",
        "background_synthesis.scene_width_px=160",
        "background_synthesis.scene_height_px=160",
        "background_synthesis.grabcut_side_px=64",
        "background_synthesis.num_workers=1",
        "rpn_training.short_side_px=128",
        "rpn_training.long_side_px=160",
        "rpn_training.num_epochs=1",
        "feature_extraction.min_regions=4",
        "feature_extraction.max_regions=6",
        "feature_extraction.num_workers=1",
        "capture_pretraining.vocabulary_size=200",
        "capture_pretraining.hidden_dim=32",
        "capture_pretraining.cross_dim=32",
        "capture_pretraining.text_layers=1",
        "capture_pretraining.visual_layers=1",
        "capture_pretraining.cross_layers=1",
        "capture_pretraining.joint_layers=1",
        "capture_pretraining.projection_dim=16",
        "capture_pretraining.num_epochs=2",
        "capture_pretraining.batch_size=16",
        "capture_pretraining.scene_batch_size=8",
        "indexing.text_dim=16",
        "indexing.num_recall_queries=8",
        "evaluation.num_bootstrap=200",
        "evaluation.num_report_queries=2",
        "evaluation.num_timed_queries=1",
        "evaluation.fusion_weights=[0.0, 1.0]",
        "evaluation.depth=20",
        "evaluation.instance_min_score=0.01",
        "evaluation.max_instances=3",
    ],
)


def run_chain(root: Path) -> TinyArtifacts:
    """Write a data set below `root` and run the steps on it."""
    made = TinyArtifacts(root)
    write_dataset(root / "dataset")
    ingestion.run(str(root / "dataset"), made.train, made.gallery, made.queries, CONFIG.ingestion)
    background_synthesis.run(made.train, "", made.scenes, CONFIG.background_synthesis)
    rpn_training.run(made.scenes, made.rpn, CONFIG.rpn_training)
    for part in ("train", "scenes", "gallery", "queries"):
        features = root / f"{part}_features"
        feature_extraction.run(root / part, made.rpn, features, CONFIG.feature_extraction)
    capture_pretraining.run(
        made.train_features, made.scenes_features, made.capture, CONFIG.capture_pretraining
    )
    indexing.run(made.gallery_features, made.capture, made.index, CONFIG.indexing)
    evaluate(made, made.evaluation)
    return made


def evaluate(
    made: TinyArtifacts, folder: Path, config: EvaluationConfig = CONFIG.evaluation
) -> None:
    """Evaluate into `folder`."""
    evaluation.run(
        made.queries_features,
        made.capture,
        made.index,
        made.queries,
        made.gallery,
        folder,
        config,
        made.rpn,
    )


def write_dataset(folder: Path) -> None:
    """Two train photos and one gallery photo per product; queries show two or three products."""
    (folder / "images").mkdir(parents=True)
    generator = np.random.default_rng(0)
    numbers = range(len(NAMES))
    singles = [(number,) for number in numbers]
    several = [
        tuple(int(n) for n in generator.choice(len(NAMES), 2 + q % 2, replace=False))
        for q in range(18)
    ]
    for role, shown in (("train", singles * 2), ("gallery", singles), ("queries", several)):
        with (folder / f"{role}.jsonl").open("w", encoding="utf-8") as lines:
            for place, products in enumerate(shown):
                name = f"{role}-{place}"
                photo = compose(products, generator)
                (folder / f"images/{name}.jpg").write_bytes(encode_jpeg(photo))
                row: dict[str, Any] = {
                    "id": name,
                    "caption": title(products, place),
                    "image": f"images/{name}.jpg",
                }
                if role != "train":
                    row["labels"] = [f"Lumi {NAMES[number]}" for number in products]
                if role == "queries":
                    row["split"] = "dev" if place < 6 else "test"
                lines.write(json.dumps(row) + "\n")


def title(products: Sequence[int], place: int) -> str:
    """A title that names every other product."""
    named = [NAMES[number] for number in products if (number + place) % 2]
    return " ".join(["Lumi", *named, "cream", str(place)])


def compose(products: Sequence[int], generator: np.random.Generator) -> Photo:
    """Packs side by side on a light wall."""
    photo = np.full((SIDE_PX, SIDE_PX * len(products), 3), 240, np.uint8)
    for slot, number in enumerate(products):
        color = tuple(int(c) for c in np.random.default_rng(number).integers(20, 200, 3))
        left = slot * SIDE_PX + int(generator.integers(20, 40))
        top = int(generator.integers(15, 30))
        cv2.rectangle(photo, (left, top), (left + 55, top + 80), color, -1)
        cv2.circle(photo, (left + 27, top + 20 + 5 * number), 10, color[::-1], -1)
    return photo

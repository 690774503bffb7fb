"""Feature artifacts of made-up products, for tests: what `feature_extraction` would write.

Every product has its own direction in feature space and its own words; photos of it scatter around
both. Scenes hold two to three products each.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from product1m.artifacts.folder import write_artifact
from product1m.config import CapturePretrainingConfig, FeatureExtractionConfig
from product1m.data.items import ItemWriter
from product1m.data.regions import Regions, RegionWriter, write_instances

WORDS = [
    "雅",
    "诗",
    "兰",
    "黛",
    "水",
    "乳",
    "霜",
    "液",
    "cream",
    "lotion",
    "red",
    "blue",
    "30ml",
    "50ml",
    "精",
    "华",
    "面",
    "膜",
    "tube",
    "jar",
    "口",
    "红",
    "rouge",
]


PRETRAINING = CapturePretrainingConfig(
    text_model="scratch",
    vocabulary_size=200,
    hidden_dim=32,
    text_layers=1,
    visual_layers=1,
    cross_layers=1,
    joint_layers=1,
    text_heads=2,
    visual_heads=2,
    text_ffn_dim=64,
    visual_ffn_dim=64,
    cross_dim=32,
    projection_dim=32,
    batch_size=12,
    scene_batch_size=8,
    num_epochs=6,
    learning_rate=3e-3,
    precision="float32",
    checkpoint_interval_steps=10,
)
"""A small network and a short training on `make_features`."""
NUM_ITEMS, NUM_SCENES = 32, 40


def make_features(folder: Path, **changes: Any) -> tuple[Path, Path]:
    """Train and scene features of the same products, so noisy that there is something to learn."""
    train = make_train(folder / "train", NUM_ITEMS, noise=2.0)
    return train, make_scenes(folder / "scenes", NUM_SCENES, NUM_ITEMS, noise=2.0, **changes)


def make_train(
    folder: Path,
    num_items: int = 24,
    feature_dim: int = 16,
    *,
    seed: int = 0,
    rpn: str = "rpn",
    noise: float = 0.3,
) -> Path:
    """An artifact `feature_extraction/train`: item-0, item-1, …, each a product of its own."""
    generator = np.random.default_rng(seed)
    with write_artifact(folder, "feature_extraction", FeatureExtractionConfig(), {}, "train") as w:
        w.details.update({"feature_dim": feature_dim, "rpn": rpn})
        with ItemWriter(w.folder) as items, RegionWriter(w.folder) as regions:
            for number in range(num_items):
                items.add(
                    f"item-{number}", b"", (200, 200), caption=caption_of(number), group=number
                )
                boxes = _boxes(generator, int(generator.integers(2, 7)), 200)
                regions.add(_around(product_vector(number, feature_dim), boxes, generator, noise))
    return folder


def make_scenes(
    folder: Path,
    num_scenes: int = 16,
    num_items: int = 24,
    feature_dim: int = 16,
    *,
    seed: int = 1,
    rpn: str = "rpn",
    noise: float = 0.3,
) -> Path:
    """An artifact `feature_extraction/scenes` of the same products; every fourth is held out."""
    generator = np.random.default_rng(seed)
    rows, vectors = [], []
    with write_artifact(folder, "feature_extraction", FeatureExtractionConfig(), {}, "scenes") as w:
        w.details.update({"feature_dim": feature_dim, "rpn": rpn})
        with ItemWriter(w.folder) as items, RegionWriter(w.folder) as regions:
            for scene in range(num_scenes):
                held_out = scene % 4 == 3
                pool = np.arange(num_items)[
                    np.arange(num_items) % 4 == 3 if held_out else np.arange(num_items) % 4 < 3
                ]
                sources = generator.choice(pool, int(generator.integers(2, 4)), replace=False)
                title = " ".join(caption_of(int(s)) for s in sources)
                split = "held_out" if held_out else "train"
                items.add(f"scene-{scene:06d}", b"", (300, 100), caption=title, split=split)
                parts = [_boxes(generator, 1, 300)[:1]]
                features = [product_vectors(sources, feature_dim).mean(0, keepdims=True)]
                for place, source in enumerate(sources):
                    box = np.array([place * 100, 0, place * 100 + 100, 100], np.float32)
                    proposal = box + np.array([2, 2, -2, -2], np.float32)
                    parts.append(np.stack([proposal, box / 2 + box[[0, 1, 0, 1]] / 2]))
                    vector = product_vector(int(source), feature_dim)
                    near = vector + noise * generator.standard_normal((3, feature_dim))
                    features.append(near[:2])
                    vectors.append(near[2])
                    rows.append((scene, f"item-{source}", *box.tolist(), 1.0))
                boxes = np.concatenate(parts).astype(np.float32)
                boxes[0] = (0, 0, 300, 100)
                stacked = np.concatenate(features).astype(np.float16)
                regions.add(Regions(stacked, boxes, np.ones(len(boxes), np.float32)))
        columns = ["scene", "source_id", "x1", "y1", "x2", "y2", "visible"]
        frame = pd.DataFrame(rows, columns=columns).astype(
            {**dict.fromkeys(["x1", "y1", "x2", "y2", "visible"], "float32"), "scene": "int64"}
        )
        write_instances(w.folder, frame, np.stack(vectors).astype(np.float16))
    return folder


def caption_of(number: int) -> str:
    """Three words that no other of the first few hundred products has in this order."""
    n = len(WORDS)
    return (
        f"{WORDS[number % n]} {WORDS[number * 7 % n]}{WORDS[(number // n + number * 3) % n]} 正品"
    )


def product_vector(number: int, feature_dim: int) -> np.ndarray:
    """A product's own direction."""
    return np.random.default_rng([7, number]).standard_normal(feature_dim)


def product_vectors(numbers: np.ndarray, feature_dim: int) -> np.ndarray:
    return np.stack([product_vector(int(number), feature_dim) for number in numbers])


def _boxes(generator: np.random.Generator, count: int, side: int) -> np.ndarray:
    """The whole photo, then `count` boxes in it."""
    corners = np.sort(generator.uniform(0, side, (count, 2, 2)), axis=1).reshape(count, 4)
    whole = np.array([[0, 0, side, side]])
    return np.concatenate([whole, corners]).astype(np.float32)


def _around(
    vector: np.ndarray, boxes: np.ndarray, generator: np.random.Generator, noise: float
) -> Regions:
    features = vector + noise * generator.standard_normal((len(boxes), len(vector)))
    scores = np.linspace(1, 0.3, len(boxes)).astype(np.float32)
    return Regions(features.astype(np.float16), boxes, scores)

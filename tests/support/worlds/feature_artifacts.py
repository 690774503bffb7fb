"""Artifacts of `feature_extraction` with invented products.

Every product has its own direction in feature space and its own words; its photos scatter around
both. A scene shows two or three products.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from product1m.artifacts.folder import write_artifact
from product1m.config import FeatureExtractionConfig
from product1m.data.items import ItemWriter
from product1m.data.regions import Regions, RegionWriter, write_instances
from tests.support.worlds.small_capture import SMALL

WORDS = [
    "雅", "诗", "兰", "黛", "水", "乳", "霜", "液", "cream", "lotion", "red", "blue",
    "30ml", "50ml", "精", "华", "面", "膜", "tube", "jar", "口", "红", "rouge",
]  # fmt: skip
INSTANCE_COLUMNS = ["scene", "source_id", "x1", "y1", "x2", "y2", "visible"]


PRETRAINING = SMALL.model_copy(
    update={
        "vocabulary_size": 200,
        "projection_dim": 32,
        "batch_size": 12,
        "scene_batch_size": 8,
        "num_epochs": 6,
        "learning_rate": 3e-3,
        "checkpoint_interval_steps": 10,
    }
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
    """Write `feature_extraction/train`: item-0, item-1, …, each another product."""
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
    """Write `feature_extraction/scenes` of the same products; every fourth scene is held out."""
    generator = np.random.default_rng(seed)
    rows, vectors = [], []
    with write_artifact(folder, "feature_extraction", FeatureExtractionConfig(), {}, "scenes") as w:
        w.details.update({"feature_dim": feature_dim, "rpn": rpn})
        with ItemWriter(w.folder) as items, RegionWriter(w.folder) as regions:
            for scene in range(num_scenes):
                sources = _sources(generator, num_items, held_out=scene % 4 == 3)
                items.add(
                    f"scene-{scene:06d}",
                    b"",
                    (300, 100),
                    caption=" ".join(caption_of(int(source)) for source in sources),
                    split="held_out" if scene % 4 == 3 else "train",
                )
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
                regions.add(_scene_regions(parts, features))
        write_instances(w.folder, _instances(rows), np.stack(vectors).astype(np.float16))
    return folder


def _sources(generator: np.random.Generator, num_items: int, *, held_out: bool) -> np.ndarray:
    """Two or three products; those of held-out scenes are not in other scenes."""
    numbers = np.arange(num_items)
    pool = numbers[numbers % 4 == 3] if held_out else numbers[numbers % 4 < 3]
    return generator.choice(pool, int(generator.integers(2, 4)), replace=False)


def _instances(rows: list[tuple[object, ...]]) -> pd.DataFrame:
    types = {"scene": "int64"} | dict.fromkeys(INSTANCE_COLUMNS[2:], "float32")
    return pd.DataFrame(rows, columns=INSTANCE_COLUMNS).astype(types)


def _scene_regions(parts: list[np.ndarray], features: list[np.ndarray]) -> Regions:
    boxes = np.concatenate(parts).astype(np.float32)
    boxes[0] = (0, 0, 300, 100)
    stacked = np.concatenate(features).astype(np.float16)
    return Regions(stacked, boxes, np.ones(len(boxes), np.float32))


def caption_of(number: int) -> str:
    """Three words; the first few hundred products have different ones."""
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
    """The box of the whole photo, then `count` boxes inside it."""
    corners = np.sort(generator.uniform(0, side, (count, 2, 2)), axis=1).reshape(count, 4)
    whole = np.array([[0, 0, side, side]])
    return np.concatenate([whole, corners]).astype(np.float32)


def _around(
    vector: np.ndarray, boxes: np.ndarray, generator: np.random.Generator, noise: float
) -> Regions:
    features = vector + noise * generator.standard_normal((len(boxes), len(vector)))
    scores = np.linspace(1, 0.3, len(boxes)).astype(np.float32)
    return Regions(features.astype(np.float16), boxes, scores)

"""A data set of ten invented products; the later steps run on it in seconds.

Photos are colored tiles. A region's feature is its product's direction with noise, so some answers
are right and some wrong. Captions of one brand share words.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from product1m.artifacts.folder import ArtifactWriter, open_artifact, write_artifact
from product1m.config import (
    BackgroundSynthesisConfig,
    EvaluationConfig,
    FeatureExtractionConfig,
    IndexingConfig,
    IngestionConfig,
    RpnTrainingConfig,
)
from product1m.data.items import ItemWriter, read_items
from product1m.data.photos import encode_jpeg
from product1m.data.regions import Regions, RegionWriter, write_instances
from product1m.steps import capture_pretraining, evaluation, indexing
from tests.support.worlds.small_capture import SMALL

FEATURE_DIM = 24
NUM_CLASSES = 10
WIDTH_PX, HEIGHT_PX = 120, 80
NAMES = ("rose", "aloe", "clay", "pearl", "mint", "oat", "fig", "iris", "honey", "sage")

CAPTURE = SMALL.model_copy(
    update={
        "vocabulary_size": 200,
        "text_ffn_dim": 32,
        "visual_ffn_dim": 32,
        "batch_size": 16,
        "scene_batch_size": 16,
        "num_epochs": 4,
        "learning_rate": 2e-3,
    }
)
INDEXING = IndexingConfig(factory="Flat", text_dim=24, num_recall_queries=20)
EVALUATION = EvaluationConfig(num_bootstrap=200, num_report_queries=6, depth=20)
QUICK = EVALUATION.model_copy(
    update={
        "fusion_weights": (0.0, 1.0),
        "num_bootstrap": 50,
        "num_report_queries": 1,
        "num_timed_queries": 1,
    }
)
"""An evaluation that draws, weighs, shows and times less."""


@dataclass(frozen=True)
class TinyArtifacts:
    """Folders of finished artifacts, one per step and part."""

    root: Path

    def __getattr__(self, name: str) -> Path:
        return self.root / name


@dataclass(frozen=True)
class Item:
    """A photo of some products: `classes` left to right."""

    id: str
    classes: tuple[int, ...]
    caption: str
    split: str = ""

    @property
    def labels(self) -> list[str]:
        return [label(number) for number in self.classes]


def label(number: int) -> str:
    """Every product has one of two brands."""
    return f"{'Lumi' if number % 2 else 'Nori'} {NAMES[number]} cream"


def write_world(root: Path, seed: int = 0) -> TinyArtifacts:
    """Write the artifacts up to the features: ingestion, scenes, RPN and regions, below `root`."""
    generator = np.random.default_rng(seed)
    prototypes = generator.standard_normal((NUM_CLASSES, FEATURE_DIM))
    singles = [
        Item(f"{part}{c}{n}", (c,), caption((c,), generator))
        for part, count in (("1", 6), ("2", 4))
        for c in range(NUM_CLASSES)
        for n in range(count)
    ]
    train = [item for item in singles if item.id.startswith("1")]
    gallery = [item for item in singles if item.id.startswith("2")]
    queries = [_several(f"3{n:02d}", "dev" if n < 14 else "test", generator) for n in range(40)]
    scenes = [_several(f"scene-{n:06d}", "train", generator) for n in range(24)]
    with write_artifact(root / "rpn", "rpn_training", RpnTrainingConfig(seed=seed)) as rpn:
        (rpn.folder / "seed.txt").write_text(str(seed))
    parts = {"train": train, "gallery": gallery, "queries": queries, "scenes": scenes}
    for part, items in parts.items():
        step = "background_synthesis" if part == "scenes" else "ingestion"
        config = BackgroundSynthesisConfig() if part == "scenes" else IngestionConfig()
        with write_artifact(root / part, step, config, part=part) as images:
            write_photos(images, items)
        write_features(root, part, items, prototypes, generator)
    return TinyArtifacts(root)


def pretrain(world: TinyArtifacts) -> dict[str, float]:
    """Train CAPTURE, at `capture`."""
    return capture_pretraining.run(
        world.train_features, world.scenes_features, world.capture, CAPTURE
    )


def build_index(
    world: TinyArtifacts, folder: Path | None = None, config: IndexingConfig = INDEXING
) -> dict[str, float]:
    """Build the gallery's index, at `index` or in `folder`."""
    return indexing.run(world.gallery_features, world.capture, folder or world.index, config)


def evaluate(
    world: TinyArtifacts, folder: Path, config: EvaluationConfig = EVALUATION
) -> dict[str, float]:
    """Evaluate into `folder`."""
    return evaluation.run(
        world.queries_features,
        world.capture,
        world.index,
        world.queries,
        world.gallery,
        folder,
        config,
    )


def index_and_evaluate(world: TinyArtifacts, source: TinyArtifacts) -> None:
    """Index and evaluate the features in `world`, other ones of the photos of `source`."""
    indexing.run(world.gallery_features, source.capture, world.index, INDEXING)
    evaluation.run(
        world.queries_features,
        source.capture,
        world.index,
        source.queries,
        source.gallery,
        world.evaluation,
        QUICK,
    )


def write_photos(writer: ArtifactWriter, items: Sequence[Item]) -> None:
    """Tiles in the colors of their products."""
    with ItemWriter(writer.folder) as photos:
        for item in items:
            photo = np.full((HEIGHT_PX, WIDTH_PX, 3), 235, np.uint8)
            for number, box in zip(item.classes, boxes_of(item), strict=True):
                color = tuple(int(channel) for channel in _color(number))
                corners = [int(edge) for edge in box]
                cv2.rectangle(photo, corners[:2], corners[2:], color, -1)
            photos.add(
                item.id,
                encode_jpeg(photo),
                (WIDTH_PX, HEIGHT_PX),
                caption=item.caption,
                labels=item.labels,
                split=item.split,
            )


def write_features(
    root: Path,
    part: str,
    items: Sequence[Item],
    prototypes: np.ndarray,
    generator: np.random.Generator,
) -> None:
    """Write the regions of every photo to `{part}_features`, and the instances of scenes."""
    step = "background_synthesis" if part == "scenes" else "ingestion"
    inputs = {
        "images": open_artifact(root / part, step, part),
        "rpn": open_artifact(root / "rpn", "rpn_training"),
    }
    config = FeatureExtractionConfig()
    folder = root / f"{part}_features"
    with write_artifact(folder, "feature_extraction", config, inputs, part) as writer:
        read_items(inputs["images"]).to_parquet(writer.folder / "items.parquet")
        with RegionWriter(writer.folder) as regions:
            for item in items:
                regions.add(regions_of(item, prototypes, generator))
        if part == "scenes":
            rows = [
                (scene, f"1{number}{generator.integers(6)}", *box, 1.0, number)
                for scene, item in enumerate(items)
                for number, box in zip(item.classes, boxes_of(item), strict=True)
            ]
            names = ["scene", "source_id", "x1", "y1", "x2", "y2", "visible", "class"]
            table = pd.DataFrame(rows, columns=names)
            features = [_noisy(prototypes[number], 0.8, generator) for number in table.pop("class")]
            write_instances(writer.folder, table, np.array(features, np.float16))
        writer.details.update(feature_dim=FEATURE_DIM, rpn=inputs["rpn"].digest)


def regions_of(item: Item, prototypes: np.ndarray, generator: np.random.Generator) -> Regions:
    """The whole photo, every product, a corner of each product, and a doubtful region."""
    boxes = boxes_of(item)
    vectors = [_noisy(prototypes[number], 0.8, generator) for number in item.classes]
    corners = [[x1, y1, (x1 + x2) / 2, (y1 + y2) / 2] for x1, y1, x2, y2 in boxes]
    corner_vectors = [_noisy(vector, 0.5, generator) for vector in vectors]
    doubtful = generator.standard_normal(FEATURE_DIM)
    return Regions(
        np.array([np.mean(vectors, axis=0), *vectors, *corner_vectors, doubtful], np.float16),
        np.array([[0, 0, WIDTH_PX, HEIGHT_PX], *boxes, *corners, [0, 0, 9, 9]], np.float32),
        np.array([1.0, *np.linspace(0.95, 0.8, len(boxes)), *[0.3] * len(boxes), 0.1], np.float32),
    )


def boxes_of(item: Item) -> list[list[float]]:
    """Boxes side by side, one per product."""
    width = WIDTH_PX / len(item.classes)
    return [[n * width + 3, 10, (n + 1) * width - 3, 75] for n in range(len(item.classes))]


def caption(classes: Sequence[int], generator: np.random.Generator) -> str:
    """Brand and, for about half the products, the name."""
    named = [NAMES[number] for number in classes if generator.random() < 0.5]
    extra = generator.choice(["new", "gift", "100ml", "sale", "pure"], 2, replace=False)
    return " ".join([label(classes[0]).split()[0], *named, *extra])


def _several(id: str, split: str, generator: np.random.Generator) -> Item:
    count = int(generator.integers(2, 4))
    brand = int(generator.integers(2))
    numbers = generator.choice(NUM_CLASSES // 2, count, replace=False) * 2 + brand
    classes = tuple(int(number) for number in numbers)
    return Item(id, classes, caption(classes, generator), split)


def _noisy(vector: np.ndarray, scale: float, generator: np.random.Generator) -> np.ndarray:
    return np.asarray(vector + scale * generator.standard_normal(len(vector)))


def _color(number: int) -> np.ndarray:
    return np.asarray(np.random.default_rng(number).integers(30, 220, 3))

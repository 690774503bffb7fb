"""Invented inputs at the sizes of the reference preset, for benchmarks: features, photos, scenes.

Their content means nothing; numbers, sizes and lengths are those of Product1M.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.torch import save_file

from product1m.artifacts.folder import write_artifact
from product1m.config import (
    BackgroundSynthesisConfig,
    FeatureExtractionConfig,
    IngestionConfig,
    RpnTrainingConfig,
)
from product1m.data.geometry import CORNERS
from product1m.data.items import ItemWriter
from product1m.data.photos import Photo, encode_jpeg
from product1m.data.regions import INSTANCES, Regions, RegionWriter, write_instances
from product1m.detection.proposals import MODEL, NetworkSettings, ProposalNetwork

RPN = "rpn"
TITLE_CHARACTERS = 25.6
"""Of a title in Product1M, on average."""
CELLS = 10


def photo(generator: np.random.Generator, side_px: int) -> Photo:
    """Colored squares with noise on them, so that a JPEG is as long as a real photo's."""
    cells = generator.integers(0, 256, (CELLS, CELLS, 3))
    drawn = np.kron(cells, np.ones((side_px // CELLS, side_px // CELLS, 1), np.int64))
    noisy = drawn + generator.normal(0, 4, (*drawn.shape[:2], 1)).round().astype(np.int64)
    return np.asarray(noisy.clip(0, 255).astype(np.uint8))


def boxes(generator: np.random.Generator, count: int, side_px: int) -> np.ndarray:
    """Corners of boxes of at least a fifth of the side."""
    sides = generator.uniform(0.2, 0.5, (count, 2)) * side_px
    corner = generator.uniform(0, 1, (count, 2)) * (side_px - sides)
    return np.concatenate([corner, corner + sides], axis=1).astype(np.float32)


def write_photos(folder: Path, count: int, side_px: int) -> None:
    """Write an artifact of ingestion."""
    generator = np.random.default_rng(0)
    encoded = [encode_jpeg(photo(generator, side_px)) for _ in range(min(count, 64))]
    with (
        write_artifact(folder, "ingestion", IngestionConfig(), part="train") as writer,
        ItemWriter(writer.folder) as items,
    ):
        for number in range(count):
            content = encoded[number % len(encoded)]
            items.add(f"photo-{number}", content, (side_px, side_px), caption="-")


def write_scenes(folder: Path, count: int, config: BackgroundSynthesisConfig) -> None:
    """Write an artifact of background synthesis: scenes with three products each."""
    generator = np.random.default_rng(0)
    side_px = config.scene_width_px
    encoded = [encode_jpeg(photo(generator, side_px)) for _ in range(min(count, 64))]
    rows = [(scene, f"item-{scene}", *box) for scene in range(count)
            for box in boxes(generator, 3, side_px).tolist()]  # fmt: skip
    with write_artifact(folder, "background_synthesis", config, part="scenes") as writer:
        with ItemWriter(writer.folder, "scenes") as items:
            for scene in range(count):
                content = encoded[scene % len(encoded)]
                size = (side_px, side_px)
                items.add(f"scene-{scene:06d}", content, size, caption="-", split="train")
        table(rows).to_parquet(writer.folder / INSTANCES)


def table(rows: list[tuple[object, ...]]) -> pd.DataFrame:
    """Pasted products as a table: scene, source, corners, visible share."""
    frame = pd.DataFrame(rows, columns=["scene", "source_id", *CORNERS])
    return frame.assign(visible=np.float32(1)).astype({"scene": "int64"})


def write_rpn(folder: Path, config: RpnTrainingConfig) -> None:
    """Write an artifact of RPN training with random weights."""
    network = ProposalNetwork(NetworkSettings.from_config(config), "none")
    with write_artifact(folder, "rpn_training", config) as writer:
        save_file(network.state_dict(), writer.folder / MODEL)


def write_features(
    folder: Path, num_items: int, feature_dim: int, regions: tuple[int, int]
) -> None:
    """Write the feature sets `train` and `scenes` with half as many scenes as items."""
    generator = np.random.default_rng(0)
    config = FeatureExtractionConfig()
    for part, count in (("train", num_items), ("scenes", num_items // 2)):
        rows: list[tuple[object, ...]] = []
        with write_artifact(folder / part, "feature_extraction", config, part=part) as writer:
            writer.details.update({"feature_dim": feature_dim, "rpn": RPN})
            with ItemWriter(writer.folder) as items, RegionWriter(writer.folder) as written:
                for number in range(count):
                    name, caption = f"{part}-{number}", title(generator)
                    items.add(name, b"", (800, 800), caption=caption, split="train", group=number)
                    corners = boxes(generator, int(generator.integers(*regions)) + 1, 800)
                    corners[0] = (0, 0, 800, 800)
                    vectors = generator.standard_normal((len(corners), feature_dim), np.float32)
                    scores = np.linspace(1, 0.3, len(corners), dtype=np.float32)
                    written.add(Regions(vectors.astype(np.float16), corners, scores))
                    rows += [(number, f"train-{generator.integers(num_items)}", *box)
                             for box in corners[1:4].tolist()]  # fmt: skip
            if part == "scenes":
                own = generator.standard_normal((len(rows), feature_dim), np.float32)
                write_instances(writer.folder, table(rows), own.astype(np.float16))


def title(generator: np.random.Generator) -> str:
    """Chinese characters, as many as in a title of Product1M."""
    length = int(np.clip(generator.normal(TITLE_CHARACTERS, 5), 6, 34))
    return "".join(map(chr, generator.integers(0x4E00, 0x4E00 + 4000, length)))

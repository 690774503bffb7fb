"""Small scenes that train a detector in seconds: bright boxes on gray noise."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from product1m.artifacts.folder import Artifact, open_artifact, write_artifact
from product1m.config import BackgroundSynthesisConfig, IngestionConfig, RpnTrainingConfig
from product1m.data.items import SOURCES, ItemWriter
from product1m.data.photos import Photo, encode_jpeg

SIDE_PX = 96
RPN = RpnTrainingConfig(
    backbone="tf_efficientnet_lite0",
    weights="package:efficientnet-lite0",
    trainable_stages=0,
    fpn_channels=16,
    short_side_px=SIDE_PX,
    long_side_px=2 * SIDE_PX,
    color_jitter=0,
    camera_share=0,
    num_interiors=4,
    scale_jitter=0,
    cached_views=1,
    num_candidates=100,
    num_proposals=50,
    num_epochs=6,
    batch_size=4,
    learning_rate=5e-3,
    precision="float32",
    checkpoint_interval_steps=5,
    num_workers=0,
)
SYNTHESIS = BackgroundSynthesisConfig(grabcut_side_px=48, num_workers=1)


def scene(generator: np.random.Generator, num_products: int) -> tuple[Photo, list[list[int]]]:
    """A scene and the boxes of its products, which do not overlap."""
    photo = generator.integers(90, 130, (SIDE_PX, SIDE_PX, 3), np.uint8)
    boxes = []
    for column in range(num_products):
        width, height = generator.integers(24, 40, 2)
        left = column * SIDE_PX // num_products + int(generator.integers(0, 6))
        top = int(generator.integers(0, SIDE_PX - height))
        boxes.append([left, top, min(left + int(width), SIDE_PX), top + int(height)])
        photo[top : boxes[-1][3], left : boxes[-1][2]] = generator.choice([0, 255], 3)
    return photo, boxes


def write_scenes(
    folder: Path,
    num_scenes: int = 24,
    config: BackgroundSynthesisConfig = SYNTHESIS,
    splits: tuple[str, ...] = ("held_out", "train", "train", "train"),
    num_sources: int = 0,
) -> Artifact:
    """Write the artifact of `background_synthesis`; `splits` repeat in this order.

    Products come from photos of their own, or take turns with `num_sources` photos that are kept.
    """
    generator = np.random.default_rng(0)
    rows = []
    with write_artifact(folder, "background_synthesis", config, part="scenes") as writer:
        if num_sources:
            (writer.folder / SOURCES).mkdir()
            with ItemWriter(writer.folder / SOURCES) as sources:
                for number in range(num_sources):
                    encoded = encode_jpeg(blocks(generator, SIDE_PX, SIDE_PX))
                    sources.add(f"p{number}", encoded, (SIDE_PX, SIDE_PX), caption="", group=-1)
        with ItemWriter(writer.folder, "scenes") as items:
            for number in range(num_scenes):
                photo, boxes = scene(generator, 2)
                items.add(
                    f"scene-{number:06d}",
                    encode_jpeg(photo),
                    (SIDE_PX, SIDE_PX),
                    caption=f"scene {number}",
                    split=splits[number % len(splits)],
                )
                for place, box in enumerate(boxes):
                    turn = (2 * number + place) % max(1, num_sources)
                    source = f"p{turn}" if num_sources else f"p{number}-{place}"
                    rows.append((number, source, *box, 1.0))
        # Readers must not depend on the order of the rows.
        table = pd.DataFrame(rows[::-1], columns=pd.Index(COLUMNS))
        table = table.astype({"scene": "int64"} | dict.fromkeys(COLUMNS[2:], "float32"))
        pq.write_table(pa.Table.from_pandas(table), writer.folder / "instances.parquet")
    return open_artifact(folder, "background_synthesis", "scenes")


COLUMNS = ["scene", "source_id", "x1", "y1", "x2", "y2", "visible"]


def blocks(generator: np.random.Generator, width: int, height: int) -> Photo:
    """Four by four patches of random colors."""
    rows, columns = np.arange(height) * 4 // height, np.arange(width) * 4 // width
    return generator.integers(0, 256, (4, 4, 3), np.uint8)[rows][:, columns]


def write_photos(folder: Path, sizes_px: list[tuple[int, int]], part: str = "train") -> Artifact:
    """Write the artifact of `ingestion` with photos of the given widths and heights."""
    generator = np.random.default_rng(1)
    with (
        write_artifact(folder, "ingestion", IngestionConfig(), part=part) as writer,
        ItemWriter(writer.folder) as items,
    ):
        for number, (width, height) in enumerate(sizes_px):
            items.add(
                f"item-{number}",
                encode_jpeg(blocks(generator, width, height)),
                (width, height),
                caption=f"title {number}",
            )
    return open_artifact(folder, "ingestion", part)

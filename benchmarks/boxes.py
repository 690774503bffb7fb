"""Count the boxes that a trained detector shows: where products are, and where nothing is.

The thresholds are those that RPN training chose on its held-out scenes. Blank photos are made on
the spot; photos of empty rooms come from a folder.

    python benchmarks/boxes.py --rpn RUN/rpn-training/checkpoint --queries RUN/ingestion/queries \
        --gallery RUN/ingestion/gallery --empty $PRODUCT1M_SHARED_DATA/backgrounds
"""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from product1m.artifacts.folder import open_artifact
from product1m.config import EvaluationConfig, FeatureExtractionConfig
from product1m.data.boxes import BOXES
from product1m.data.geometry import CORNERS, Boxes
from product1m.data.intake import normalize_photo
from product1m.data.items import ItemTable
from product1m.data.limits import PhotoLimits
from product1m.data.photos import Photo, decode_photo
from product1m.detection.extraction import RegionSettings, extract_regions
from product1m.detection.proposals import ProposalNetwork, load_rpn
from product1m.detection.recall import precision_and_recall
from product1m.retrieval.query_boxes import choose_boxes
from product1m.retrieval.search import SearchSettings
from product1m.telemetry.progress import track

SIDE_PX = 400
LIMITS = PhotoLimits(
    max_side_px=800, min_side_px=16, max_pixels=50_000_000, max_bytes=1 << 25, max_jpeg_scans=32
)


def main() -> None:
    arguments = parse_arguments()
    rpn = open_artifact(arguments.rpn, "rpn_training")
    network = load_rpn(rpn)
    settings = SearchSettings.from_config(EvaluationConfig(), rpn)
    print(f"minimum score {settings.boxes.min_score}, NMS at IoU {settings.boxes.max_iou}")

    def count(name: str, photos: Iterable[Photo]) -> list[Boxes]:
        boxes = [shown(network, photo, settings) for photo in track(list(photos), name)]
        numbers = np.array([len(own) for own in boxes])
        single, none = (numbers == 1).mean(), (numbers == 0).mean()
        print(
            f"{name}: {len(boxes)} photos, {numbers.mean():.3f} boxes a photo, "
            f"exactly one in {single:.3f}, none in {none:.3f}"
        )
        return boxes

    count("blank", blank_photos())
    if arguments.empty:
        count("empty rooms", map(read, sorted(arguments.empty.iterdir())))
    if arguments.gallery:
        items = ItemTable(open_artifact(arguments.gallery, "ingestion", "gallery"))
        count("single products", (items.photo(row) for row in range(len(items))))
    if arguments.queries:
        artifact = open_artifact(arguments.queries, "ingestion", "queries")
        items, true = ItemTable(artifact), pd.read_parquet(artifact.file(BOXES))
        rows = np.flatnonzero(items.rows["split"] == "test").tolist()
        truth = [true.loc[true["item"] == row, list(CORNERS)].to_numpy(np.float32) for row in rows]
        boxes = count("test queries", (items.photo(row) for row in rows))
        precision, recall = precision_and_recall(boxes, truth)
        print(f"test queries: box precision {precision:.3f}, box recall {recall:.3f}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rpn", type=Path, required=True, help="artifact of RPN training")
    parser.add_argument("--queries", type=Path, help="artifact of ingestion, with true boxes")
    parser.add_argument("--gallery", type=Path, help="artifact of ingestion: single products")
    parser.add_argument("--empty", type=Path, help="folder of photos without products")
    return parser.parse_args()


def shown(network: ProposalNetwork, photo: Photo, settings: SearchSettings) -> Boxes:
    """The boxes that a person is shown."""
    section = FeatureExtractionConfig(precision="float32", batch_size=1)
    ((regions, _),) = extract_regions(network, [photo], RegionSettings.from_config(section, None))
    boxes = choose_boxes(regions, settings.boxes)
    return boxes.boxes_xyxy[boxes.shown]


def blank_photos() -> Sequence[Photo]:
    """White, gray and black, a gradient, and noise of two strengths."""
    rng = np.random.default_rng(0)
    shape = (SIDE_PX, SIDE_PX, 3)
    ramp = np.linspace(0, 255, SIDE_PX).astype(np.uint8)[:, None, None]
    return [
        *(np.full(shape, level, np.uint8) for level in (255, 128, 0)),
        np.ascontiguousarray(np.broadcast_to(ramp, shape)),
        rng.integers(0, 256, shape, np.uint8),
        rng.normal(128, 25, shape).clip(0, 255).astype(np.uint8),
    ]


def read(path: Path) -> Photo:
    """A photo as ingestion stores it."""
    return decode_photo(normalize_photo(path.read_bytes(), LIMITS).encoded, path.name)


if __name__ == "__main__":
    main()

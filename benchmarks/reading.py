"""What reading packs costs and finds: whole photos and boxes, at several sizes.

Reads queries of a data set with true boxes, one photo after the other on one thread, and looks up
every product by the block `ocr`, alone and with image features of the box (ImageNet weights).

    python benchmarks/packs.py build/packs
    python benchmarks/reading.py build/packs --queries 20
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from product1m.config import FeatureExtractionConfig, IndexingConfig
from product1m.data.photos import Photo, decode_photo
from product1m.data.printed_lines import PrintedLines
from product1m.data.vectors import normalize
from product1m.detection.backbone import LITE0, Backbone
from product1m.detection.canvas import make_canvas, stack_canvases
from product1m.detection.ocr import OcrSettings, PackReader
from product1m.retrieval.embedding import ImageStandardization
from product1m.retrieval.printed_text import PrintedTextEncoder
from product1m.telemetry.usage import peak_memory_mib

PHOTO_SIDES_PX = (640, 960, 1440)
BOX_SIDES_PX = (320, 480, 640, 800)
IMAGE_SIDE_PX = 224
Scores = Float[np.ndarray, "I G"]


@dataclass(frozen=True)
class Pack:
    """A true box of a query with its label."""

    photo: int
    box_xyxy: Float[np.ndarray, "4"]
    label: str


@dataclass(frozen=True)
class DataSet:
    """Gallery and queries, photos in memory."""

    gallery: list[dict[str, Any]]
    gallery_photos: list[Photo]
    photos: list[Photo]
    packs: list[Pack]

    @classmethod
    def read(cls, folder: Path, num_queries: int) -> "DataSet":
        """The gallery, and the first queries."""
        gallery = list(read_rows(folder / "gallery.jsonl"))
        queries = list(read_rows(folder / "queries.jsonl"))[:num_queries]
        packs = [
            Pack(number, np.array(box, np.float32), label)
            for number, row in enumerate(queries)
            for box, label in zip(row["boxes"], row["box_labels"], strict=True)
        ]
        photos = [
            [decode_photo((folder / row["image"]).read_bytes(), row["id"]) for row in rows]
            for rows in (gallery, queries)
        ]
        return cls(gallery, photos[0], photos[1], packs)

    def right(self, scores: Scores) -> float:
        """Share of the packs whose nearest item is theirs; a pack without a score is wrong."""
        labels = [row["labels"][0] for row in self.gallery]
        return float(
            np.mean(
                [
                    row.max() > 0 and labels[int(row.argmax())] == pack.label
                    for row, pack in zip(scores, self.packs, strict=True)
                ]
            )
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="data set of benchmarks/packs.py")
    parser.add_argument("--queries", type=int, default=20, help="queries to read, the first ones")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = DataSet.read(arguments.folder, arguments.queries)
    encoder, items, seconds = read_gallery(data)
    images = image_scores(data)
    print(f"gallery: {seconds:.2f} CPU s a photo; image features alone: {data.right(images):.2f}")
    print(
        "| what is read | CPU s a photo | boxes without a line | OCR only | with image features |"
    )
    print("| --- | --- | --- | --- | --- |")
    sizes = [("photo", side) for side in PHOTO_SIDES_PX] + [("box", side) for side in BOX_SIDES_PX]
    for what, side_px in sizes:
        lines, seconds = read_queries(data, what, side_px)
        scores = encoder.encode([read.texts for read in lines]) @ items.T
        both = scores / scores.std() + images / images.std()
        empty = sum(not len(read) for read in lines)
        figures = f"{data.right(scores):.2f} | {data.right(both):.2f}"
        print(f"| {what} at {side_px} | {seconds:.2f} | {empty} of {len(lines)} | {figures} |")
    print(f"peak memory: {peak_memory_mib():.0f} MiB")


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    yield from map(json.loads, path.read_text("utf-8").splitlines())


def read_gallery(data: DataSet) -> tuple[PrintedTextEncoder, Float[np.ndarray, "G K"], float]:
    """The encoder fitted on lines and titles of the gallery, its vectors, and CPU s a photo."""
    reader = PackReader(OcrSettings.from_config(FeatureExtractionConfig(ocr="boxes"), "gallery"))
    started = time.process_time()
    lines = [reader.read(photo, np.empty((0, 4))).texts for photo in data.gallery_photos]
    seconds = (time.process_time() - started) / len(lines)
    texts = [[*own, row["caption"]] for own, row in zip(lines, data.gallery, strict=True)]
    config = IndexingConfig()
    encoder = PrintedTextEncoder.fit(
        texts, config.ocr_dim, config.ocr_max_ngram, config.text_max_terms, seed=0
    )
    return encoder, encoder.encode_items(texts), seconds


def read_queries(data: DataSet, what: str, side_px: int) -> tuple[list[PrintedLines], float]:
    """The lines of every pack, and CPU s a query."""
    config = FeatureExtractionConfig(
        ocr="boxes", ocr_photo_side_px=side_px, ocr_box_side_px=side_px
    )
    reader = PackReader(OcrSettings.from_config(config))
    started = time.process_time()
    read: list[PrintedLines] = []
    for number, photo in enumerate(data.photos):
        boxes = np.array([pack.box_xyxy for pack in data.packs if pack.photo == number])
        if what == "box":
            read += [reader.read(photo, box[None]).inside(box) for box in boxes]
        else:
            lines = reader.read(photo, boxes[:0])
            read += [lines.inside(box) for box in boxes]
    return read, (time.process_time() - started) / len(data.photos)


def image_scores(data: DataSet) -> Scores:
    """Cosines between the boxes and the gallery's photos, as in the block `image`."""
    backbone = Backbone("tf_efficientnet_lite0", LITE0, trainable_stages=0).eval()
    gallery = np.stack([encode(backbone, photo) for photo in data.gallery_photos])
    crops = [cut(data.photos[pack.photo], pack.box_xyxy) for pack in data.packs]
    boxes = np.stack([encode(backbone, crop) for crop in crops])
    fitted = ImageStandardization.fit(gallery)
    near, far = ((rows - fitted.mean) / fitted.deviation for rows in (boxes, gallery))
    return np.asarray(normalize(near) @ normalize(far).T)


def cut(photo: Photo, box_xyxy: Sequence[float] | Float[np.ndarray, "4"]) -> Photo:
    left, top, right, bottom = (int(edge) for edge in box_xyxy)
    return np.ascontiguousarray(photo[top:bottom, left:right])


@torch.inference_mode()
def encode(backbone: Backbone, photo: Photo) -> Float[np.ndarray, " F"]:
    canvas = make_canvas(photo, IMAGE_SIDE_PX, IMAGE_SIDE_PX)
    return np.asarray(backbone(stack_canvases([canvas]))[-1].mean((2, 3))[0].numpy())


if __name__ == "__main__":
    main()

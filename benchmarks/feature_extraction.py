"""Measure the speed of feature extraction, part by part, on generated photos.

    python benchmarks/feature_extraction.py --preset sample --photos 64

`encode` is the backbone at all sizes, `propose` is pyramid, RPN and NMS, `whole` is the whole step
with decoding and writing. The weights are random, which does not change the speed.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from product1m.artifacts.folder import open_artifact, write_artifact
from product1m.config import Config, IngestionConfig, load_config
from product1m.data.items import ItemTable, ItemWriter
from product1m.data.photos import encode_jpeg
from product1m.detection.canvas import stack_canvases
from product1m.detection.extraction import RegionSettings, extract_sized, sized_photo
from product1m.detection.proposals import MODEL, NetworkSettings, ProposalNetwork, load_rpn
from product1m.steps import feature_extraction

SIDE_PX = 400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", choices=["sample", "reference"], default="sample")
    parser.add_argument("--photos", type=int, default=64)
    arguments = parser.parse_args()
    config = load_config(arguments.preset)
    with tempfile.TemporaryDirectory() as folder:
        write_photos(Path(folder) / "train", arguments.photos)
        write_checkpoint(Path(folder) / "rpn", config)
        print(json.dumps(measure(Path(folder), config), indent=2))


def write_photos(folder: Path, count: int) -> None:
    """Write photos of colored squares, so that there is something to propose and compress."""
    generator = np.random.default_rng(0)
    with (
        write_artifact(folder, "ingestion", IngestionConfig(), part="train") as writer,
        ItemWriter(writer.folder) as items,
    ):
        for number in range(count):
            cells = generator.integers(0, 256, (10, 10, 3), np.uint8)
            photo = np.kron(cells, np.ones((SIDE_PX // 10, SIDE_PX // 10, 1), np.uint8))
            items.add(f"photo-{number}", encode_jpeg(photo), (SIDE_PX, SIDE_PX), caption="-")


def write_checkpoint(folder: Path, config: Config) -> None:
    torch.manual_seed(0)
    network = ProposalNetwork(NetworkSettings.from_config(config.rpn_training), "none")
    with write_artifact(folder, "rpn_training", config.rpn_training) as writer:
        save_file(network.state_dict(), writer.folder / MODEL)


def measure(folder: Path, config: Config) -> dict[str, float]:
    """Milliseconds per photo for every part, photos per second for the step."""
    section = config.feature_extraction
    settings = RegionSettings.from_config(section, grabcut=None)
    network = load_rpn(open_artifact(folder / "rpn", "rpn_training"))
    items = ItemTable(open_artifact(folder / "train", "ingestion", "train"))
    count = len(items)
    sized = [sized_photo(network, items.photo(i), settings) for i in range(count)]
    largest = [stack_canvases([photo.canvases[0]]).to(network.device) for photo in sized]
    with torch.inference_mode():
        maps = [network(photo) for photo in largest]
        inner = [photo.canvases[0].inner_px for photo in sized]
        parts: dict[str, Callable[[], object]] = {
            "decode": lambda: [
                sized_photo(network, items.photo(i), settings) for i in range(count)
            ],
            "encode": lambda: [
                network(stack_canvases([canvas]).to(network.device))[-1].cpu()
                for photo in sized
                for canvas in photo.canvases
            ],
            "propose": lambda: [
                network.propose(levels, [size]) for levels, size in zip(maps, inner, strict=True)
            ],
            "extract": lambda: extract_sized(network, sized, settings),
        }
        milliseconds = {f"{name}_ms": 1e3 * timed(part) / count for name, part in parts.items()}
    started = time.perf_counter()
    feature_extraction.run(folder / "train", folder / "rpn", folder / "features", section)
    whole_s = time.perf_counter() - started
    return {
        **{name: round(value, 1) for name, value in milliseconds.items()},
        "whole_photos_per_s": round(count / whole_s, 1),
        "threads": torch.get_num_threads(),
    }


def timed(part: Callable[[], object]) -> float:
    part()  # the first run allocates memory
    started = time.perf_counter()
    part()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()

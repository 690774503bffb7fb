"""How much work each task of a run has, from its configuration and the sizes of its lists.

The weights are seconds of one core at the sample's settings (November 2026). An estimate divides
the work of one run by that of another, so only their ratios count.
"""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from product1m.config import (
    BackgroundSynthesisConfig,
    CapturePretrainingConfig,
    Config,
    RpnTrainingConfig,
)
from product1m.config.background_synthesis import fitting_scenes
from product1m.data.class_names import names_set
from product1m.data.lists import ListFile, ListItem, count_lines, find_lists, read_list

ACCEPTED_CUTOUTS = 0.95
"""Share of cut-outs that are good enough to be pasted."""

EXTRACTED = 0.08
"""Regions of a photo, its points included."""
READ = {
    "off": {"gallery": 0.0, "queries": 0.0},
    "photo": {"gallery": 0.4, "queries": 0.4},
    "boxes": {"gallery": 0.4, "queries": 0.55},
}
"""Reading of a photo, by `feature_extraction.ocr`."""


class Sizes(NamedTuple):
    """Number of items of a data set."""

    train: int
    gallery: int
    queries: int
    singles: int
    """Train items whose title names a single product, so that they may be cut out; not counted
    beyond `background_synthesis.max_cutouts`."""


def sizes_of_lists(folder: Path, address: str, config: BackgroundSynthesisConfig) -> Sizes:
    """Counts of a data set's lists; no photo is read."""
    lists = find_lists(folder, address)
    train, gallery, queries = (
        sum(count_lines(file.path)[0] for file in lists[role])
        for role in ("train", "gallery", "queries")
    )
    return Sizes(train, gallery, queries, _count_singles(lists["train"], config))


def _count_singles(files: Sequence[ListFile], config: BackgroundSynthesisConfig) -> int:
    singles = (
        item
        for file in files
        for item in read_list(file)
        if isinstance(item, ListItem) and not names_set(item.caption, config.set_words)
    )
    return sum(1 for _ in islice(singles, config.max_cutouts))


def work(config: Config, sizes: Sizes) -> dict[str, float]:
    """Task to the work that it has; tasks that are not named have the same work in every run."""
    synthesis = config.background_synthesis
    num_cutouts = min(sizes.singles, synthesis.max_cutouts)
    scenes = fitting_scenes(
        ACCEPTED_CUTOUTS * num_cutouts, synthesis.scenes_per_cutout, synthesis.num_scenes
    )
    reading = READ[config.feature_extraction.ocr]
    return {
        "ingestion": 0.3 + 0.001 * (sizes.train + sizes.gallery + sizes.queries),
        "background_synthesis": 1.0 + 0.18 * num_cutouts + 0.024 * scenes,
        "rpn_training": _rpn_work(config.rpn_training, scenes, synthesis.held_out_share),
        "feature_extraction/train": 1.5 + EXTRACTED * sizes.train,
        "feature_extraction/scenes": 1.5 + EXTRACTED * scenes,
        "feature_extraction/gallery": 1.5 + (EXTRACTED + reading["gallery"]) * sizes.gallery,
        "feature_extraction/queries": 1.5 + (EXTRACTED + reading["queries"]) * sizes.queries,
        "capture_pretraining": _pretraining_work(config.capture_pretraining, sizes.train),
        "indexing": 0.3 + 0.005 * sizes.gallery,
        "evaluation": 3.0 + 0.25 * sizes.queries,
    }


def _rpn_work(config: RpnTrainingConfig, scenes: int, held_out_share: float) -> float:
    """Passes of both stages, and what is done once for every scene: maps, examples, measuring."""
    train_scenes = max(1.0, scenes * (1 - held_out_share))

    def passes(num_epochs: int) -> float:
        steps = max(config.min_steps, num_epochs * train_scenes / config.batch_size)
        if config.warm_start:
            steps *= config.warm_share
        return steps * config.batch_size / train_scenes

    once = 0.17
    first, second = 0.016 * passes(config.num_epochs), 0.007 * passes(config.box_num_epochs)
    return 3.0 + train_scenes * (once + first + second)


def _pretraining_work(config: CapturePretrainingConfig, num_items: int) -> float:
    """Rows of all batches: their items and the pasted products."""
    batches = -(-num_items // config.batch_size)
    steps = max(config.min_steps, batches * config.num_epochs // config.accumulation_steps)
    if config.warm_start:
        steps = round(config.warm_share * steps)
    pasted = config.scene_batch_size if config.scene_contrast_weight else 0
    rows = steps * config.accumulation_steps * (num_items / batches + pasted)
    return 3.0 + 0.0055 * rows

"""Paste cut-out products on backgrounds: scenes with known boxes and sources."""

import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from product1m.artifacts.folder import (
    Artifact,
    ArtifactWriter,
    open_artifact,
)
from product1m.config import BackgroundSynthesisConfig
from product1m.data.geometry import CORNERS
from product1m.data.items import ROWS_PER_GROUP, SOURCES, ItemWriter
from product1m.data.photos import Photo
from product1m.data.regions import INSTANCES
from product1m.errors import DatasetError
from product1m.steps.bracket import open_step
from product1m.synthesis import contact_sheets
from product1m.synthesis.backgrounds import find_backgrounds
from product1m.synthesis.coco import write_coco
from product1m.synthesis.companions import color_vector
from product1m.synthesis.compose import ComposedScene, SceneSettings, compose
from product1m.synthesis.cutouts import (
    REASONS,
    CutAttempt,
    CutoutSettings,
    cut,
    cut_candidates,
    draw_candidates,
    read_candidate,
    read_encoded,
)
from product1m.synthesis.parallel import WorkerProcesses
from product1m.synthesis.planning import PlanSettings, plan_scenes, split_sources
from product1m.telemetry.progress import track

logger = logging.getLogger(__name__)

STEP = "background_synthesis"
SCENES_PICTURE, CUTOUTS_PICTURE = "scenes.png", "cutouts.png"
_PICTURED_SCENES = 15
_PICTURED_CUTOUTS = 24
_PREFIX = "scenes"
_INSTANCE_SCHEMA = pa.schema(
    [("scene", pa.int64()), ("source_id", pa.string())]
    + [(name, pa.float32()) for name in (*CORNERS, "visible")]
)


def run(
    products: Path,
    backgrounds: str,
    scenes: Path,
    config: BackgroundSynthesisConfig,
    storage_root: str = "",
) -> dict[str, float]:
    """Cut single products out of `products` and compose them to `scenes`; returns the metrics.

    `backgrounds` is a folder or `s3://` prefix of photos; if empty, backgrounds are drawn. After a
    kill, the next attempt uses the cut-outs that exist. Raises DatasetError if too few photos can
    be cut out, or too many backgrounds are damaged.
    """
    with (
        open_step(STEP, config, scenes, "scenes", storage_root) as step,
        WorkerProcesses(config.num_workers) as workers,
    ):
        source = open_artifact(products, "ingestion")
        background_photos = find_backgrounds(backgrounds)
        step.read({"products": source})
        work = step.work_folder()
        candidates, counts = draw_candidates(
            source,
            max_candidates=config.max_cutouts,
            set_words=config.set_words,
            seed=config.seed,
        )
        cutouts = CutoutSettings.from_config(config)
        attempts = cut_candidates(source, candidates, work / "cutouts", cutouts, workers)
        step.metrics.update(counts | _count_cutouts(attempts, counts))
        picture = _draw_cutouts(source, attempts, step.folder, cutouts, config.seed)
        step.tracking.log_file(picture)  # it shows why, if too few photos could be cut out
        sources = [attempt for attempt in attempts if not attempt.reason]
        plan = PlanSettings.from_config(config).sized(len(sources), config.scenes_per_cutout)
        split = split_sources(sources, plan)
        colors = dict(
            zip((s.candidate.id for s in sources), workers.map(color_vector, sources), strict=True)
        )
        render = partial(compose, settings=SceneSettings.from_config(config))
        composed = workers.map(render, plan_scenes(split, background_photos, plan, colors))
        step.metrics.update(_write_scenes(composed, plan.num_scenes, step.writer, work, config))
        if config.keep_sources:
            _write_sources(source, sources, step.folder, config.shard_mib)
        step.metrics.update({f"sources/{name}": len(own) for name, own in split.items()})
        step.details["background_photos"] = len(background_photos)
        step.attach(SCENES_PICTURE)
    step.remove_work()
    return step.all_metrics()


def _count_cutouts(attempts: Sequence[CutAttempt], counts: Mapping[str, float]) -> dict[str, float]:
    reasons = Counter(attempt.reason for attempt in attempts)
    accepted = reasons.pop("", 0)
    accepted_share = accepted / max(1, len(attempts))
    titled_single = 1 - counts["items/of_sets"] / max(1, counts["items"])
    for reason in REASONS:
        if reasons[reason]:
            logger.info("%s: cut-outs rejected as %s: %d", STEP, reason, reasons[reason])
    return {
        "cutouts/tried": float(len(attempts)),
        "cutouts/accepted": float(accepted),
        "cutouts/accepted_share": accepted_share,
        # Share of items that set words and masks accept, estimated from the items tried.
        "items/single_product_share": titled_single * accepted_share,
        **{f"cutouts/rejected/{reason}": float(reasons[reason]) for reason in REASONS},
    }


def _draw_cutouts(
    source: Artifact,
    attempts: Sequence[CutAttempt],
    folder: Path,
    settings: CutoutSettings,
    seed: int,
) -> Path:
    rng = np.random.default_rng(seed)
    shuffled = [attempts[int(k)] for k in rng.permutation(len(attempts))]
    accepted = [attempt for attempt in shuffled if not attempt.reason][:_PICTURED_CUTOUTS]
    rejected = [attempt for attempt in shuffled if attempt.reason][:_PICTURED_CUTOUTS]
    tiles = [contact_sheets.draw_cutout(attempt) for attempt in accepted]
    for attempt in rejected:
        candidate = attempt.candidate
        photo = read_candidate(candidate, source.shard(candidate.shard))
        mask, reason = cut(photo, settings)
        tiles.append(contact_sheets.draw_rejected(photo, mask, reason))
    path = folder / CUTOUTS_PICTURE
    contact_sheets.write_grid(tiles, path, columns=8)
    return path


def _write_scenes(
    composed: Iterable[ComposedScene],
    num_scenes: int,
    writer: ArtifactWriter,
    work: Path,
    config: BackgroundSynthesisConfig,
) -> dict[str, float]:
    """Write the scenes one by one; annotations stay in a file until their shard is known."""
    folder = writer.folder
    tally = _Tally()
    annotations = work / "annotations.jsonl"
    pictured = set(np.linspace(0, num_scenes - 1, _PICTURED_SCENES).astype(int).tolist())
    tiles: list[Photo] = []
    rows: list[dict[str, Any]] = []
    with (
        ItemWriter(folder, _PREFIX, config.shard_mib, writer.store) as items,
        annotations.open("w", encoding="utf-8") as lines,
        pq.ParquetWriter(folder / INSTANCES, _INSTANCE_SCHEMA) as instances,
    ):
        for scene in track(composed, "composing scenes", num_scenes):
            size_px = config.scene_width_px, config.scene_height_px
            items.add(
                scene.id, scene.encoded, size_px, caption=scene.plan.title, split=scene.plan.split
            )
            lines.write(json.dumps(scene.annotations) + "\n")
            rows += scene.instances
            if len(rows) >= ROWS_PER_GROUP or scene.plan.number == num_scenes - 1:
                instances.write_table(pa.Table.from_pylist(rows, _INSTANCE_SCHEMA))
                rows = []
            tally.add(scene)
            if scene.plan.number in pictured:
                tiles.append(contact_sheets.draw_scene(scene))
    tally.check_backgrounds(config.max_damaged_backgrounds)
    for path in write_coco(folder, annotations):
        writer.store(path)
    contact_sheets.write_grid(tiles, folder / SCENES_PICTURE, columns=5)
    return tally.metrics()


def _write_sources(
    source: Artifact, accepted: Sequence[CutAttempt], folder: Path, shard_mib: int
) -> None:
    """The photos that products were cut from, as a table of items with its shards."""
    (folder / SOURCES).mkdir()
    with ItemWriter(folder / SOURCES, shard_mib=shard_mib) as items:
        for candidate in (attempt.candidate for attempt in accepted):
            photo = read_candidate(candidate, source.shard(candidate.shard))
            size_px = photo.shape[1], photo.shape[0]
            encoded = read_encoded(candidate, source.shard(candidate.shard))
            items.add(
                candidate.id, encoded, size_px, caption=candidate.caption, group=candidate.group
            )


@dataclass
class _Tally:
    """Counts of the composed scenes."""

    scenes: Counter[str] = field(default_factory=Counter)
    visible: list[float] = field(default_factory=list)
    num_dropped: int = 0
    used: set[str] = field(default_factory=set)
    damaged: set[str] = field(default_factory=set)

    def add(self, scene: ComposedScene) -> None:
        """Count a scene; warn once about each damaged background."""
        self.scenes[scene.plan.split] += 1
        self.visible += [product["visible"] for product in scene.instances]
        self.num_dropped += scene.num_dropped
        for address in set(scene.damaged) - self.damaged:
            logger.warning("%s: cannot be read as a photo; skipped as a background", address)
        self.damaged.update(scene.damaged)
        if scene.background is not None:
            self.used.add(scene.background)

    def check_backgrounds(self, max_share: float) -> None:
        """DatasetError if too many of the background photos tried are damaged."""
        tried = len(self.damaged) + len(self.used)
        if tried and len(self.damaged) > max_share * tried:
            raise DatasetError(
                f"{len(self.damaged)} of {tried} background photos cannot be read, "
                f"for example {min(self.damaged)}; remove them or raise "
                f"background_synthesis.max_damaged_backgrounds, now {max_share}"
            )

    def metrics(self) -> dict[str, float]:
        """Counts and means over all scenes."""
        num_scenes, num_instances = sum(self.scenes.values()), len(self.visible)
        return {
            "scenes/train": float(self.scenes["train"]),
            "scenes/held_out": float(self.scenes["held_out"]),
            "instances": float(num_instances),
            "instances/a_scene": num_instances / num_scenes,
            "instances/dropped": float(self.num_dropped),
            "instances/mean_visible": float(np.mean(self.visible)),
            "backgrounds/used": float(len(self.used)),
            "backgrounds/damaged": float(len(self.damaged)),
        }

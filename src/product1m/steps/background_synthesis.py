"""Single products cut out and pasted on backgrounds: scenes whose boxes and sources are known."""

import json
import logging
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from product1m.artifacts.folder import (
    Artifact,
    ArtifactWriter,
    open_artifact,
    work_folder,
)
from product1m.config import BackgroundSynthesisConfig
from product1m.data.geometry import CORNERS
from product1m.data.items import ROWS_A_GROUP, ItemWriter
from product1m.data.photos import Photo
from product1m.data.regions import INSTANCES
from product1m.errors import DatasetError
from product1m.steps.bracket import open_step
from product1m.synthesis import contact_sheets
from product1m.synthesis.backgrounds import find_backgrounds
from product1m.synthesis.coco import write_coco
from product1m.synthesis.compose import ComposedScene, compose
from product1m.synthesis.cutouts import (
    REASONS,
    Verdict,
    cut,
    cut_candidates,
    draw_candidates,
    read_candidate,
)
from product1m.synthesis.parallel import Workers
from product1m.synthesis.planning import plan_scenes, split_sources
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

    `backgrounds` is a folder or `s3://` prefix of photos, or empty for drawn ones. Cut-outs of an
    attempt that was killed are taken up again. Raises DatasetError where too few photos can be cut
    out, or too many backgrounds are damaged.
    """
    with (
        open_step(STEP, config, scenes, "scenes", storage_root) as step,
        Workers(config.num_workers) as workers,
    ):
        source = open_artifact(products, "ingestion")
        background_photos = find_backgrounds(backgrounds)
        work = work_folder(scenes, STEP, config, step.read({"products": source}))
        candidates, counts = draw_candidates(source, config)
        verdicts = cut_candidates(source, candidates, work / "cutouts", config, workers)
        step.metrics.update(counts | _count_cutouts(verdicts, counts))
        picture = _picture_cutouts(source, verdicts, step.folder, config)
        step.tracking.log_file(picture)  # shows why, where too few photos could be cut out
        split = split_sources([verdict for verdict in verdicts if not verdict.reason], config)
        composed = workers.map(compose, plan_scenes(split, background_photos, config))
        step.metrics.update(_write_scenes(composed, step.writer, work, config))
        step.metrics.update({f"sources/{name}": len(own) for name, own in split.items()})
        step.details["background_photos"] = len(background_photos)
        step.attach(SCENES_PICTURE)
    shutil.rmtree(work)
    return step.all_metrics()


def _count_cutouts(verdicts: Sequence[Verdict], counts: Mapping[str, float]) -> dict[str, float]:
    reasons = Counter(verdict.reason for verdict in verdicts)
    accepted = reasons.pop("", 0)
    accepted_share = accepted / max(1, len(verdicts))
    titled_single = 1 - counts["items/of_sets"] / max(1, counts["items"])
    for reason in REASONS:
        logger.info("%s: %d cut-outs rejected: %s", STEP, reasons[reason], reason)
    return {
        "cutouts/tried": float(len(verdicts)),
        "cutouts/accepted": float(accepted),
        "cutouts/accepted_share": accepted_share,
        # What the set words and the masks leave of all items, as far as it was tried.
        "items/single_product_share": titled_single * accepted_share,
        **{f"cutouts/rejected/{reason}": float(reasons[reason]) for reason in REASONS},
    }


def _picture_cutouts(
    source: Artifact, verdicts: Sequence[Verdict], folder: Path, config: BackgroundSynthesisConfig
) -> Path:
    rng = np.random.default_rng(config.seed)
    shuffled = [verdicts[int(k)] for k in rng.permutation(len(verdicts))]
    accepted = [verdict for verdict in shuffled if not verdict.reason][:_PICTURED_CUTOUTS]
    rejected = [verdict for verdict in shuffled if verdict.reason][:_PICTURED_CUTOUTS]
    tiles = [contact_sheets.draw_cutout(verdict) for verdict in accepted]
    for verdict in rejected:
        candidate = verdict.candidate
        photo = read_candidate(candidate, source.shard(candidate.shard))
        mask, reason = cut(photo, config)
        tiles.append(contact_sheets.draw_rejected(photo, mask, reason))
    path = folder / CUTOUTS_PICTURE
    contact_sheets.write_grid(tiles, path, columns=8)
    return path


def _write_scenes(
    composed: Iterable[ComposedScene],
    writer: ArtifactWriter,
    work: Path,
    config: BackgroundSynthesisConfig,
) -> dict[str, float]:
    """Write the scenes as they come; annotations wait in a file until their shard is known."""
    folder = writer.folder
    tally = _Tally()
    annotations = work / "annotations.jsonl"
    pictured = set(np.linspace(0, config.num_scenes - 1, _PICTURED_SCENES).astype(int).tolist())
    tiles: list[Photo] = []
    rows: list[dict[str, Any]] = []
    with (
        ItemWriter(folder, _PREFIX, config.shard_mib, writer.store) as items,
        annotations.open("w", encoding="utf-8") as lines,
        pq.ParquetWriter(folder / INSTANCES, _INSTANCE_SCHEMA) as instances,
    ):
        for scene in track(composed, "composing scenes", config.num_scenes):
            size_px = config.scene_width_px, config.scene_height_px
            items.add(
                scene.id, scene.encoded, size_px, caption=scene.plan.title, split=scene.plan.split
            )
            lines.write(json.dumps(scene.annotations) + "\n")
            rows += scene.instances
            if len(rows) >= ROWS_A_GROUP or scene.plan.number == config.num_scenes - 1:
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


@dataclass
class _Tally:
    """What was composed so far."""

    scenes: Counter[str] = field(default_factory=Counter)
    visible: list[float] = field(default_factory=list)
    num_dropped: int = 0
    used: set[str] = field(default_factory=set)
    damaged: set[str] = field(default_factory=set)

    def add(self, scene: ComposedScene) -> None:
        """Count a scene; say so once where a background is damaged."""
        self.scenes[scene.plan.split] += 1
        self.visible += [product["visible"] for product in scene.instances]
        self.num_dropped += scene.num_dropped
        for address in set(scene.damaged) - self.damaged:
            logger.warning("%s: not a photo that can be read; skipped as a background", address)
        self.damaged.update(scene.damaged)
        if scene.background is not None:
            self.used.add(scene.background)

    def check_backgrounds(self, max_share: float) -> None:
        """DatasetError if too many of the background photos that were tried are damaged."""
        tried = len(self.damaged) + len(self.used)
        if tried and len(self.damaged) > max_share * tried:
            raise DatasetError(
                f"{len(self.damaged)} of {tried} background photos cannot be read, "
                f"{min(self.damaged)} for one; at most a share of {max_share} "
                "(background_synthesis.max_damaged_backgrounds) is skipped"
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

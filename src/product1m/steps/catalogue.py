"""Make a catalogue from a gallery list with a promoted model: the index that is served next."""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32

from product1m.artifacts.folder import Artifact, ArtifactWriter, open_artifact
from product1m.artifacts.manifest import MANIFEST
from product1m.artifacts.model_parts import THUMBNAILS, model_in
from product1m.artifacts.work import work_root
from product1m.catalogue.checks import (
    CANARY_CHECK,
    CanaryRanking,
    Check,
    CheckLimits,
    ask_canaries,
    check_catalogue,
    known_canaries,
    write_canaries,
)
from product1m.catalogue.drift import DriftLimits, Sign, signs_of_drift
from product1m.catalogue.embedding import CatalogueModel, ItemVectors
from product1m.catalogue.indexing import (
    PROBES_WHEN_BUILT,
    CatalogueIndexSettings,
    Changes,
    FilledIndex,
    Vectors,
    refresh_index,
)
from product1m.catalogue.intake import SOURCES, Intake, read_rows, take_in
from product1m.catalogue.points import write_catalogue_points
from product1m.catalogue.registering import (
    MODEL_DIGEST,
    live_version,
    open_registered,
    register_catalogue,
)
from product1m.catalogue.small_photos import write_small_photos
from product1m.config import CatalogueConfig, IndexingConfig, RegistrationConfig
from product1m.errors import CatalogueError
from product1m.registry.loading import fetch_model
from product1m.registry.versions import is_registered
from product1m.retrieval.building import RECALL_DEPTH
from product1m.retrieval.index import GALLERY, INDEX, GalleryIndex
from product1m.serving.catalogue_folder import ENCODER_FILES, MODEL, STEP, model_digest
from product1m.serving.signatures import Trust
from product1m.steps.bracket import open_step
from product1m.storage.scratch import scratch_folder

logger = logging.getLogger(__name__)

DRIFTED = "drifted"
"""Metric: 1 if any sign of drift is beyond its limit."""


def run(
    dataset: str,
    model: Path,
    catalogue: Path,
    config: CatalogueConfig,
    before: Path | None = None,
    storage_root: str = "",
) -> dict[str, float]:
    """Refresh a catalogue with a model whose folder has been verified.

    Args:
        dataset: folder or `s3://` prefix with a gallery list and photos.
        model: folder of the model.
        catalogue: folder to write; may be `before`.
        config: of the step.
        before: the catalogue that is refreshed; one of another model counts as none.
        storage_root: what is computed is kept below it, unless `config.cache` is set.

    Raises DatasetError, ArtifactError or RetrievalError. A catalogue that does not pass its checks
    is written all the same, with the metric `checks_passed` 0.
    """
    cache = config.cache or f"{storage_root or work_root(catalogue)}/catalogue"
    with open_step(STEP, config, catalogue) as step, scratch_folder() as scratch:
        opened = CatalogueModel.open(model)
        step.read({"rpn": opened.rpn, "capture": opened.capture})
        old = _before(before, opened)
        kept = storage_root or str(work_root(catalogue))
        taken = take_in(dataset, old, opened.config.ingestion, kept, scratch / "photos")
        vectors = ItemVectors(opened, cache, config, scratch)
        if not vectors.can_embed(taken.rows, taken.read):  # the cache was cleaned
            taken = take_in(dataset, None, opened.config.ingestion, kept, scratch / "all")
        vectors.embed(taken.rows, taken.read)
        filled = refresh_index(
            old, taken.rows, vectors.select, _settings(config, opened), step.folder
        )
        filled = _with_points(filled, opened, taken, old, step.writer)
        changes = Changes.between(_rows(old), taken.rows)
        checks = _check(old, filled, changes, vectors.select, config, opened, step.folder)
        signs = _signs(filled, checks, vectors.select, config, opened)
        _write(step.writer, opened, taken, filled, old, config)
        step.details.update(_facts(changes, checks, opened), drift=[asdict(sign) for sign in signs])
        step.metrics.update(_metrics(step.folder, taken, filled, changes, checks))
        step.metrics["photos_extracted"] = float(vectors.num_extracted)
        step.metrics.update({f"drift/{sign.name}": sign.value for sign in signs})
        step.metrics[DRIFTED] = float(any(sign.drifted for sign in signs))
    return step.all_metrics()


def refresh_live(
    dataset: str,
    model: str,
    catalogue: Path,
    config: CatalogueConfig,
    storage_root: str = "",
    *,
    model_required: bool = True,
) -> dict[str, float]:
    """Refresh the catalogue that is served, register the new one, and move `live` to it.

    Args:
        dataset: folder or `s3://` prefix with a gallery list and photos.
        model: promoted model, `models:/NAME@ALIAS` or a folder; verified before it is loaded.
        catalogue: folder to write.
        config: of the step.
        storage_root: what is computed is kept below it, unless `config.cache` is set.
        model_required: otherwise, before the first promotion, nothing is refreshed, and `drifted`
            is 1: whoever asks trains a model.

    Raises what `run` raises, RegistryError if the model may not be loaded or MLflow refuses, and
    CatalogueError if the checks did not pass; `live` stays where it was then.
    """
    if not model_required and not is_registered(model):
        logger.info("catalogue: there is no %s yet, so there is nothing to refresh", model)
        return {DRIFTED: 1.0}
    with scratch_folder() as scratch:
        fetched, before = scratch / "fetched", scratch / "before"
        fetched.mkdir()
        trust, candidate = Trust.from_options(), RegistrationConfig().candidate_model
        folder = model_in(fetch_model(model, candidate, trust, fetched))
        live = live_version(config.catalogue_model)
        old = None
        if live and live.tags.get(MODEL_DIGEST) == model_digest(folder):
            old = open_registered(live, model_digest(folder), model, before).folder
        metrics = run(dataset, folder, catalogue, config, old, storage_root)
    register_catalogue(catalogue, config.catalogue_model, model)
    require_passed(catalogue)
    return metrics


def require_passed(catalogue: Path) -> None:
    """Raise CatalogueError with the reasons if a catalogue did not pass its checks."""
    checks = open_artifact(catalogue, STEP).manifest.details["checks"]
    failed = [f"{check['name']}: {check['reason']}" for check in checks if not check["passed"]]
    if failed:
        raise CatalogueError(
            f"{catalogue}: must not be served: {'; '.join(failed)}; the limits are in the section "
            "`catalogue` of the configuration"
        )


def _before(folder: Path | None, model: CatalogueModel) -> Artifact | None:
    """The catalogue that is refreshed, unless there is none or it is another model's."""
    if folder is None or not (folder / MANIFEST).is_file():
        return None
    old = open_artifact(folder, STEP)
    if old.manifest.details.get(MODEL) != model.digest:
        logger.info("catalogue: %s is of another model; rebuilding it", folder)
        return None
    return old


def _rows(old: Artifact | None) -> pd.DataFrame:
    return pd.DataFrame(columns=["id", "caption", "sha256"]) if old is None else read_rows(old)


def _settings(config: CatalogueConfig, model: CatalogueModel) -> CatalogueIndexSettings:
    own = IndexingConfig.model_validate(model.index.manifest.config)
    return CatalogueIndexSettings(
        factory=config.factory or own.factory,
        probes=config.probes or own.probes,
        num_training_items=own.num_training_items,
        num_recall_queries=own.num_recall_queries,
        min_recall=config.min_recall,
        max_clipped_share=config.max_clipped_share,
        seed=config.seed,
    )


def _with_points(
    filled: FilledIndex,
    model: CatalogueModel,
    taken: Intake,
    old: Artifact | None,
    writer: ArtifactWriter,
) -> FilledIndex:
    """Write the items' points too, if the model gives shared points a weight."""
    finder = model.finder()
    if finder is None:
        return filled
    num_workers = model.config.feature_extraction.num_workers
    table = write_catalogue_points(filled.rows, taken.read, old, writer, finder, num_workers)
    return replace(filled, gallery=filled.gallery.with_points(table))


def _check(
    old: Artifact | None,
    filled: FilledIndex,
    changes: Changes,
    vectors: Callable[[pd.DataFrame], Float32[np.ndarray, "n D"]],
    config: CatalogueConfig,
    model: CatalogueModel,
    folder: Path,
) -> list[Check]:
    """Check the new index and write the canaries of the next refresh."""
    limits = CheckLimits(
        config.min_recall,
        config.num_canaries,
        config.canary_depth,
        config.max_shrinkage,
        config.max_growth,
    )
    canaries = known_canaries(old)
    ranking = CanaryRanking.from_config(model.index.manifest.details["blocks"], model.config)
    answers = ask_canaries(filled, canaries, vectors, limits, config.seed, ranking)
    checks = check_catalogue(old, filled, changes, canaries, answers, limits)
    write_canaries(folder, answers)
    for check in checks:
        log = logger.info if check.passed else logger.error
        log("catalogue: check %s %s: %s", check.name, _word(check), check.reason)
    return checks


def _signs(
    filled: FilledIndex,
    checks: Sequence[Check],
    vectors: Vectors,
    config: CatalogueConfig,
    model: CatalogueModel,
) -> list[Sign]:
    """How far the catalogue has moved from what the model knows."""
    signs = signs_of_drift(
        GalleryIndex.load(model.index),
        model.index.manifest.details["blocks"],
        filled.rows,
        vectors,
        next(check.share for check in checks if check.name == CANARY_CHECK),
        config.queries,
        DriftLimits(
            config.max_new_share,
            config.max_distance,
            config.min_canaries_found,
            config.min_match_score,
        ),
        config.seed,
    )
    for sign in signs:
        word = "DRIFTED" if sign.drifted else "within"
        logger.info("catalogue: %s %.3f, limit %g: %s", sign.name, sign.value, sign.limit, word)
    return signs


def _write(
    writer: ArtifactWriter,
    model: CatalogueModel,
    taken: Intake,
    filled: FilledIndex,
    old: Artifact | None,
    config: CatalogueConfig,
) -> None:
    """Write everything beside the index itself."""
    folder = writer.folder
    pq.write_table(pa.Table.from_pandas(filled.rows, preserve_index=False), folder / GALLERY)
    (folder / SOURCES).write_text(json.dumps(taken.stamps, indent=0), "utf-8")
    for name in ENCODER_FILES:
        (folder / name).write_bytes(model.index.file(name).read_bytes())
    write_small_photos(filled.rows, taken.read, old, folder, config.thumbnail_side_px)
    writer.timed.add(f"{THUMBNAILS}/{MANIFEST}")


def _facts(changes: Changes, checks: list[Check], model: CatalogueModel) -> dict[str, object]:
    details = model.index.manifest.details
    return {
        MODEL: model.digest,
        **details,
        "changes": asdict(changes),
        "checks": [asdict(check) for check in checks],
    }


def _metrics(
    folder: Path, taken: Intake, filled: FilledIndex, changes: Changes, checks: list[Check]
) -> dict[str, float]:
    num_items = len(filled.rows)
    return {
        "num_items": float(num_items),
        "added": float(len(changes.added)),
        "removed": float(len(changes.removed)),
        "changed": float(len(changes.changed)),
        "rejected": float(len(taken.rejected)),
        f"recall@{RECALL_DEPTH}": filled.recall,
        "clipped_share": filled.clipped_share,
        "rebuilt": float(filled.rebuilt),
        PROBES_WHEN_BUILT: float(filled.probes_when_built),
        "bytes_per_item": (folder / INDEX).stat().st_size / num_items,
        "checks_passed": float(all(check.passed for check in checks)),
    }


def _word(check: Check) -> str:
    return "passed" if check.passed else "FAILED"

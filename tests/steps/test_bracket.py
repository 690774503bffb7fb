"""What a step that fails leaves behind, and what a server that is away costs one that does not."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from product1m.artifacts.folder import open_artifact
from product1m.config import IndexingConfig, IngestionConfig
from product1m.errors import ArtifactError, Product1MError, TrackingError
from product1m.steps import (
    background_synthesis,
    capture_pretraining,
    evaluation,
    feature_extraction,
    indexing,
    ingestion,
    registration,
    rpn_training,
)
from product1m.steps.bracket import open_step, open_step_with_parts
from tests.support.worlds.registered_model import LENIENT, MlflowStore
from tests.support.worlds.tiny_chain import CONFIG
from tests.support.worlds.tiny_world import TinyArtifacts

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # mlflow warns about itself


def ingest(made: TinyArtifacts, out: Path) -> None:
    train, gallery, queries = (out / part for part in ("train", "gallery", "queries"))
    ingestion.run(str(made.root / "dataset"), train, gallery, queries, CONFIG.ingestion)


def synthesize(made: TinyArtifacts, out: Path) -> None:
    background_synthesis.run(made.train, "", out, CONFIG.background_synthesis)


def train_rpn(made: TinyArtifacts, out: Path) -> None:
    rpn_training.run(made.scenes, out, CONFIG.rpn_training)


def extract(made: TinyArtifacts, out: Path) -> None:
    feature_extraction.run(made.gallery, made.rpn, out, CONFIG.feature_extraction)


def pretrain(made: TinyArtifacts, out: Path) -> None:
    capture_pretraining.run(
        made.train_features, made.scenes_features, out, CONFIG.capture_pretraining
    )


def index(made: TinyArtifacts, out: Path) -> None:
    indexing.run(made.gallery_features, made.capture, out, CONFIG.indexing)


def evaluate(made: TinyArtifacts, out: Path) -> None:
    evaluation.run(
        made.queries_features,
        made.capture,
        made.index,
        made.queries,
        made.gallery,
        out,
        CONFIG.evaluation,
    )


def register(made: TinyArtifacts, out: Path) -> None:
    inputs = (made.rpn, made.capture, made.index, made.evaluation, made.queries, made.gallery)
    registration.run(*inputs, out, LENIENT)


STEPS: dict[str, tuple[Callable[[TinyArtifacts, Path], None], str]] = {
    "ingestion": (ingest, "dataset/gallery.jsonl"),
    "background_synthesis/scenes": (synthesize, "train/images-00000.tar"),
    "rpn_training": (train_rpn, "scenes/scenes-00000.tar"),
    "feature_extraction/gallery": (extract, "gallery/images-00000.tar"),
    "capture_pretraining": (pretrain, "train_features/regions-00000.safetensors"),
    "indexing": (index, "gallery_features/regions-00000.safetensors"),
    "evaluation": (evaluate, "queries_features/regions-00000.safetensors"),
    "registration": (register, "evaluation/per_query.parquet"),
}
"""How a step runs, and a file that it reads when it is at work."""


def damaged_copy(made: TinyArtifacts, folder: Path, name: str) -> TinyArtifacts:
    """Everything that was made, with one file of other bytes."""
    shutil.copytree(made.root, folder, copy_function=os.link)
    path = folder / name
    path.unlink()  # the bytes are those of the original
    path.write_bytes(b"damaged")
    return TinyArtifacts(folder)


def only_run(store: MlflowStore) -> Run:
    """The newest run."""
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    (run,) = client.search_runs([store.experiment], max_results=1)
    return run


@pytest.mark.parametrize("name", STEPS)
def test_a_step_that_fails_tags_its_run_and_leaves_no_artifact(
    name: str, made: TinyArtifacts, store: MlflowStore, tmp_path: Path
) -> None:
    run_step, file = STEPS[name]
    world = damaged_copy(made, tmp_path / "world", file)
    out = tmp_path / "out"
    with pytest.raises(Product1MError) as failure:
        run_step(world, out)
    run = only_run(store)
    assert run.info.status == "FAILED"
    assert run.data.tags["failed_step"] == name
    assert run.data.tags["error"] == f"{failure.type.__name__}: {failure.value}"
    assert not [*out.parent.rglob(f"{out.name}*/manifest.json")]
    assert not [*tmp_path.glob(".out.partial")]


def test_an_input_that_is_missing_tags_the_run_too(store: MlflowStore, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError):
        extract(TinyArtifacts(tmp_path), tmp_path / "out")
    assert only_run(store).data.tags["failed_step"] == "feature_extraction"


def test_what_was_computed_is_whole_before_mlflow_gets_its_metrics(
    store: MlflowStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def lose_mlflow_at_the_end() -> None:
        with open_step("indexing", IndexingConfig(), out) as step:
            (step.folder / "index.faiss").write_bytes(b"vectors")
            step.metrics["recall"] = 0.5
            monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
            monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")

    with pytest.raises(TrackingError, match="logging metrics"):
        lose_mlflow_at_the_end()
    monkeypatch.undo()
    with store.active():  # a run that could not be ended stays this process's active one
        mlflow.end_run("FAILED")
    artifact = open_artifact(out, "indexing")
    assert artifact.file("index.faiss").read_bytes() == b"vectors"
    assert artifact.manifest.metrics == {"recall": 0.5}


def test_metrics_and_attached_files_reach_mlflow_at_the_end(
    store: MlflowStore, tmp_path: Path
) -> None:
    with open_step("feature_extraction", IndexingConfig(), tmp_path / "out", "gallery") as step:
        (step.folder / "curve.png").write_bytes(b"picture")
        step.attach("curve.png")
        step.metrics["items"] = 3.0
        assert not only_run(store).data.metrics
    run = only_run(store)
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {"feature_extraction/gallery/items": 3.0}
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    (file,) = client.list_artifacts(run.info.run_id, "feature_extraction/gallery")
    assert file.path == "feature_extraction/gallery/curve.png"


def test_a_step_with_parts_logs_the_metrics_of_each(store: MlflowStore, tmp_path: Path) -> None:
    folders = {part: tmp_path / part for part in ("train", "gallery")}
    with open_step_with_parts("ingestion", IngestionConfig(), folders) as step:
        for count, part in enumerate(folders):
            step.writers[part].metrics["items"] = float(count)
    assert step.all_metrics() == {"train/items": 0.0, "gallery/items": 1.0}
    assert only_run(store).data.metrics == {
        "ingestion/train/items": 0.0,
        "ingestion/gallery/items": 1.0,
    }
    assert open_artifact(folders["gallery"], "ingestion", "gallery").manifest.metrics == {
        "items": 1.0
    }


def test_inputs_are_recorded_with_their_ancestors(
    made: TinyArtifacts, store: MlflowStore, tmp_path: Path
) -> None:
    features = open_artifact(made.gallery_features, "feature_extraction")
    with open_step("indexing", IndexingConfig(), tmp_path / "out") as step:
        step.read({"gallery_features": features})
    manifest = open_artifact(tmp_path / "out", "indexing").manifest
    assert manifest.inputs == {"gallery_features": features.digest}
    assert {"feature_extraction/gallery", "ingestion/gallery", "rpn_training"} <= set(
        manifest.lineage
    )

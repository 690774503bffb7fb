"""What is killed: every step on tiny inputs, writing below a sandbox.

The artifacts are `SANDBOX/out`, or the folders in it for a step that writes several.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from product1m.config import IndexingConfig
from product1m.steps import (
    background_synthesis,
    capture_pretraining,
    evaluation,
    feature_extraction,
    indexing,
    ingestion,
    rpn_training,
)
from product1m.steps.bracket import open_step
from product1m.training.loop import train
from tests.support.kills import refreshing, registry, stores
from tests.support.worlds import tiny_training
from tests.support.worlds.tiny_chain import CONFIG

Scenario = Callable[[Path, Path], None]
"""Runs a step: folder of its inputs, sandbox."""


def small_training(world: Path, sandbox: Path) -> None:
    """A step with a work folder, checkpoints and an artifact that trains in a second."""
    with open_step("indexing", IndexingConfig(), sandbox / "out") as step:
        work = step.work_folder()
        network = tiny_training.make_network()
        curve = train(
            network,
            tiny_training.losses,
            tiny_training.batch_at,
            tiny_training.PLAN,
            work=work,
            report=tiny_training.silent,
        )
        (step.folder / "curve.json").write_text(str(curve))
        (step.folder / "weights").write_text(str(list(network.parameters())))
    step.remove_work()


def ingest(world: Path, sandbox: Path, storage_root: str = "") -> None:
    """Ingestion of the data set."""
    out = sandbox / "out"
    ingestion.run(
        str(world / "dataset"),
        out / "train",
        out / "gallery",
        out / "queries",
        CONFIG.ingestion,
        storage_root,
    )


def ingest_into_storage(world: Path, sandbox: Path) -> None:
    """Ingestion with a storage root."""
    ingest(world, sandbox, str(sandbox / "storage"))


def synthesize(world: Path, sandbox: Path) -> None:
    """Synthesis of scenes."""
    background_synthesis.run(world / "train", "", sandbox / "out", CONFIG.background_synthesis)


def train_rpn(world: Path, sandbox: Path) -> None:
    """RPN training, with few checkpoints of the second stage."""
    changes = {"checkpoint_interval_steps": 1, "box_num_epochs": 2}
    section = CONFIG.rpn_training.model_copy(update=changes)
    rpn_training.run(world / "scenes", sandbox / "out", section)


def extract(world: Path, sandbox: Path) -> None:
    """Feature extraction of the gallery."""
    section = CONFIG.feature_extraction
    feature_extraction.run(world / "gallery", world / "rpn", sandbox / "out", section)


def pretrain(world: Path, sandbox: Path) -> None:
    """CAPTURE pretraining."""
    features = (world / "train_features", world / "scenes_features")
    section = CONFIG.capture_pretraining.model_copy(update={"checkpoint_interval_steps": 1})
    capture_pretraining.run(*features, sandbox / "out", section)


def index(world: Path, sandbox: Path) -> None:
    """Indexing."""
    section = CONFIG.indexing
    indexing.run(world / "gallery_features", world / "capture", sandbox / "out", section)


def evaluate(world: Path, sandbox: Path) -> None:
    """Evaluation without crops, with few samples of the intervals and one photo in the report."""
    changes = {"num_bootstrap": 20, "num_report_queries": 1, "encode_crops": False}
    section = CONFIG.evaluation.model_copy(update=changes)
    evaluation.run(
        world / "queries_features",
        world / "capture",
        world / "index",
        world / "queries",
        world / "gallery",
        sandbox / "out",
        section,
        world / "rpn",
    )


SCENARIOS: dict[str, Scenario] = {
    "small_training": small_training,
    "ingestion": ingest,
    "ingestion_into_storage": ingest_into_storage,
    "background_synthesis": synthesize,
    "rpn_training": train_rpn,
    "feature_extraction": extract,
    "capture_pretraining": pretrain,
    "indexing": index,
    "evaluation": evaluate,
    "mlflow_store": registry.create_store,
    "registration": registry.register,
    "promotable": registry.prepare_promotion,
    "promotion": registry.promote,
    "ingestion_into_s3": stores.ingest_into_s3,
    "catalogue": stores.fill_catalogue,
    "catalogue_add": stores.add,
    "catalogue_remove": stores.remove,
    "catalogue_erase": stores.erase,
    "served": refreshing.serve_catalogue,
    "refresh": refreshing.refresh,
    "erasure": refreshing.erase,
    "data_state": refreshing.read_state,
}
PREPARED_BY = {
    "registration": "mlflow_store",
    "promotion": "promotable",
    "catalogue_add": "catalogue",
    "catalogue_remove": "catalogue",
    "catalogue_erase": "catalogue",
    "refresh": "served",
    "erasure": "served",
}
"""What happens before a scenario, undisturbed; then the sandbox is moved."""
FACTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "mlflow_store": registry.created,
    "registration": registry.registered,
    "promotable": registry.registered,
    "promotion": registry.promoted,
    "ingestion_into_s3": stores.ingested,
    "catalogue_add": stores.catalogue,
    "catalogue_remove": stores.catalogue,
    "catalogue_erase": stores.catalogue,
    "refresh": refreshing.refreshed,
    "erasure": refreshing.erased,
    "data_state": refreshing.state_read,
}
"""What a user finds afterwards, for scenarios whose files differ from run to run."""

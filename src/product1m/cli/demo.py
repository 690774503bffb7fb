"""`product1m demo`: draw a few products, train a small model on them, and serve it."""

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from product1m.cli.serve import require_packages
from product1m.config import Config, load_config

if TYPE_CHECKING:
    from product1m.artifacts.folder import Artifact
    from product1m.serving.live import ServedModel

TRAIN_SINGLES, TRAIN_SETS, GALLERY, QUERIES, ROOMS = 112, 20, 112, 24, 8
"""Photos that are drawn (ours): as many as a minute allows."""
SMALL = (
    "ingestion.num_workers=1",
    "background_synthesis.num_scenes=48",
    "background_synthesis.max_cutouts=48",
    "background_synthesis.grabcut_side_px=96",
    "background_synthesis.num_workers=1",
    "rpn_training.short_side_px=256",
    "rpn_training.long_side_px=384",
    "rpn_training.num_epochs=3",
    "feature_extraction.num_workers=1",
    "capture_pretraining.hidden_dim=64",
    "capture_pretraining.cross_dim=64",
    "capture_pretraining.text_layers=1",
    "capture_pretraining.visual_layers=1",
    "capture_pretraining.cross_layers=1",
    "capture_pretraining.joint_layers=1",
    "capture_pretraining.num_epochs=4",
    "indexing.text_dim=32",
    "indexing.num_recall_queries=16",
    "evaluation.num_bootstrap=50",
    "evaluation.num_report_queries=1",
    "evaluation.depth=20",
)
"""What differs from the preset `sample` (ours)."""
MAP_AT_10 = "test/strict_mAP_at_10"
"""Metric of the evaluation that is printed."""


def demo(
    folder: Annotated[
        Path, typer.Option(help="Where data and model are kept; the next start takes them.")
    ] = Path("build/demo"),
    port: Annotated[int, typer.Option(help="Port of the page.", min=1, max=65535)] = 8000,
    open_page: Annotated[bool, typer.Option("--open/--no-open", help="Open the browser.")] = True,
) -> None:
    """Draw some products, train a small model on them, and open a page that answers a photo.

    It shows how the search works, not how good it is: `make sample` and your own photos do that.
    """
    require_packages()
    from product1m.serving.live import Live
    from product1m.serving.web.app import Server, create_app
    from product1m.serving.web.server import check_temporary_folder, run_server

    check_temporary_folder()
    config = load_config("sample", SMALL)
    if not (folder / "model").is_dir():
        _make(folder, config)
    app = create_app(Server({"champion": Live(lambda: _load(folder / "model"))}, config.serving))
    url = f"http://127.0.0.1:{port}/"
    typer.echo(f"{url} answers photos, for example {_example(folder)}; Ctrl+C ends it")
    if open_page:
        typer.launch(url)
    run_server(app, "127.0.0.1", port, config.serving)


def _load(folder: Path) -> "ServedModel":
    from product1m.serving.live import load_served

    return load_served(folder, "demo", is_signed=False, is_sample=True)


def _make(folder: Path, config: Config) -> None:
    """Data, every step, and the model folder, which appears when all is done."""
    from product1m.artifacts.atomic import whole_folder
    from product1m.sample import SampleSizes, make_sample
    from product1m.steps import registration

    started = time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    sizes = SampleSizes(TRAIN_SINGLES, TRAIN_SETS, GALLERY, QUERIES, QUERIES, ROOMS)
    make_sample(folder / "data", sizes=sizes)
    figures = _run_steps(folder / "data", folder / "steps", config)
    with whole_folder(folder / "model") as partial:
        (partial / "artifacts").mkdir()
        registration.make_model_folder(
            partial / "artifacts" / "model", _inputs(folder / "steps"), config.registration
        )
    typer.echo(
        f"trained in {time.monotonic() - started:.0f} s on {TRAIN_SINGLES + TRAIN_SETS} drawn "
        f"photos: strict mAP@10 {figures.get(MAP_AT_10, float('nan')):.2f} on {QUERIES} queries; "
        "a real training (`make sample`) is far better"
    )


def _run_steps(data: Path, made: Path, config: Config) -> dict[str, float]:
    """Every step up to the evaluation, whose metrics it returns, in this process."""
    from product1m.steps import (
        background_synthesis,
        capture_pretraining,
        evaluation,
        feature_extraction,
        indexing,
        ingestion,
        rpn_training,
    )

    train, gallery, queries = (made / part for part in ("train", "gallery", "queries"))
    scenes, rpn, capture, index = (made / name for name in ("scenes", "rpn", "capture", "index"))
    ingestion.run(str(data), train, gallery, queries, config.ingestion)
    background_synthesis.run(train, str(data / "backgrounds"), scenes, config.background_synthesis)
    rpn_training.run(scenes, rpn, config.rpn_training)
    for items in (train, scenes, gallery, queries):
        features = made / f"{items.name}_features"
        feature_extraction.run(items, rpn, features, config.feature_extraction)
    capture_pretraining.run(
        made / "train_features", made / "scenes_features", capture, config.capture_pretraining
    )
    indexing.run(made / "gallery_features", capture, index, config.indexing)
    return evaluation.run(
        made / "queries_features",
        capture,
        index,
        queries,
        gallery,
        made / "evaluation",
        config.evaluation,
    )


def _inputs(made: Path) -> dict[str, "Artifact"]:
    """What a model folder is made of."""
    from product1m.artifacts.folder import open_artifact

    return {
        "rpn": open_artifact(made / "rpn", "rpn_training"),
        "capture": open_artifact(made / "capture", "capture_pretraining"),
        "index": open_artifact(made / "index", "indexing"),
        "evaluation": open_artifact(made / "evaluation", "evaluation"),
        "gallery": open_artifact(made / "gallery", "ingestion", "gallery"),
    }


def _example(folder: Path) -> Path:
    """A photo of several products."""
    from product1m.artifacts.folder import open_artifact
    from product1m.data.items import ItemTable

    queries = ItemTable(open_artifact(folder / "steps" / "queries", "ingestion", "queries"))
    return folder / "data" / "images" / f"{queries.rows['id'].iloc[0]}.jpg"

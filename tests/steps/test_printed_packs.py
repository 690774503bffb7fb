"""Packs that were read, from the feature set to the answers, on the tiny world."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from product1m.artifacts.folder import open_artifact, write_artifact
from product1m.config import FeatureExtractionConfig, IngestionConfig
from product1m.data.items import read_items
from product1m.data.printed_lines import NO_LINES, LineWriter, PrintedLines
from product1m.data.regions import FeatureSet
from product1m.detection.extraction import RegionSettings
from product1m.detection.proposals import NetworkSettings, ProposalNetwork
from product1m.errors import RetrievalError
from product1m.evaluation.methods import IMAGE_TEXT_OCR, OCR, WHOLE_PHOTO
from product1m.retrieval.search import Searcher, SearchSettings
from product1m.serving.model_folder import ServingConfig
from product1m.serving.service import SearchService
from product1m.steps import evaluation
from tests.support.worlds.evaluation_files import read_json
from tests.support.worlds.tiny_scenes import RPN
from tests.support.worlds.tiny_world import QUICK, TinyArtifacts, index_and_evaluate


@pytest.fixture(scope="module")
def printed(
    tiny_artifacts: TinyArtifacts, tmp_path_factory: pytest.TempPathFactory
) -> TinyArtifacts:
    """Gallery and queries whose labels are printed on them, indexed and evaluated."""
    world = TinyArtifacts(tmp_path_factory.mktemp("printed"))
    for part in ("gallery", "queries"):
        write_printed(tiny_artifacts, world, part)
    index_and_evaluate(world, tiny_artifacts)
    return world


def write_printed(source: TinyArtifacts, target: TinyArtifacts, part: str) -> None:
    """The features of a part, with a line on every product; a query's lines in reverse order."""
    old = open_artifact(source.root / f"{part}_features", "feature_extraction", part)
    inputs = {
        "images": open_artifact(source.root / part, "ingestion", part),
        "rpn": open_artifact(source.rpn, "rpn_training"),
    }
    features, rows = FeatureSet(old), read_items(old)
    folder = target.root / f"{part}_features"
    config = FeatureExtractionConfig(ocr="boxes")
    with write_artifact(folder, "feature_extraction", config, inputs, part) as writer:
        for name in old.manifest.files:
            shutil.copyfile(old.folder / name, writer.folder / name)
        with LineWriter(writer.folder) as lines:
            for position, labels in enumerate(rows["labels"]):
                boxes = features.boxes_xyxy(position)[1 : 1 + len(labels)]
                lines.add(lines_on(boxes[::-1], list(labels)[::-1]))
        writer.details.update(old.manifest.details)


def lines_on(boxes: np.ndarray, texts: list[str]) -> PrintedLines:
    quads = [
        [[x1 + 5, y1 + 5], [x2 - 5, y1 + 5], [x2 - 5, y1 + 9], [x1 + 5, y1 + 9]]
        for x1, y1, x2, y2 in boxes.tolist()
    ]
    return PrintedLines(np.array(quads, np.float32), tuple(texts), np.ones(len(texts), np.float32))


@pytest.fixture(scope="module")
def metrics(printed: TinyArtifacts) -> dict[str, Any]:
    measured: dict[str, Any] = read_json(
        open_artifact(printed.evaluation, "evaluation"), "metrics.json"
    )
    return measured


def test_what_is_printed_answers_every_box(metrics: dict[str, Any]) -> None:
    test = metrics["test"]
    assert test[OCR]["strict"]["10"]["mAP"] > 0.95  # every box bears its answer's name
    assert test[OCR]["strict"]["10"]["mAP"] > test["image"]["strict"]["10"]["mAP"]
    without_ocr = test["image_text"]["strict"]["10"]["mAP"]
    assert test[IMAGE_TEXT_OCR]["strict"]["10"]["mAP"] > without_ocr
    assert {OCR + WHOLE_PHOTO, IMAGE_TEXT_OCR + WHOLE_PHOTO} <= test.keys()
    assert metrics["fusion"][OCR] > 0


def test_a_query_without_lines_is_answered_by_the_other_blocks(
    printed: TinyArtifacts, tiny_artifacts: TinyArtifacts
) -> None:
    index = open_artifact(printed.index, "indexing")
    capture = open_artifact(tiny_artifacts.capture, "capture_pretraining")
    searcher = Searcher.load(index, capture, SearchSettings.from_config(QUICK))
    queries = FeatureSet(open_artifact(printed.queries_features, "feature_extraction"))
    regions = queries.regions(0)
    caption = str(queries.rows["caption"].iloc[0])
    view = regions.instance(regions.boxes_xyxy[1], regions.features[1])
    assert view.lines.texts == (queries.rows["labels"].iloc[0][0],)
    blocks = searcher.encoder.encode([caption], [view])
    assert np.linalg.norm(blocks[OCR]) > 0.9
    unread = searcher.encoder.encode([caption], [replace(view, lines=NO_LINES)])
    assert not unread[OCR].any()
    np.testing.assert_array_equal(unread["image"], blocks["image"])


@pytest.mark.parametrize(("weight", "reads"), [(1.0, True), (0.0, False)])
def test_a_served_model_reads_packs_only_if_that_has_a_weight(
    printed: TinyArtifacts, tiny_artifacts: TinyArtifacts, weight: float, reads: bool
) -> None:
    index = open_artifact(printed.index, "indexing")
    capture = open_artifact(tiny_artifacts.capture, "capture_pretraining")
    searcher = Searcher.load(index, capture, SearchSettings.from_config(QUICK))
    read = FeatureExtractionConfig(ocr="boxes")
    config = ServingConfig(
        ingestion=IngestionConfig(),
        feature_extraction=read,
        evaluation=QUICK,
        weights={"image": 1.0, OCR: weight},
    )
    network = ProposalNetwork(NetworkSettings.from_config(RPN), RPN.weights)
    service = SearchService(network, RegionSettings.from_config(read, None), searcher, config)
    assert (service.reader is not None) == reads
    if service.reader is not None:
        assert service.reader.settings.boxes == searcher.settings.boxes


def test_a_block_that_the_index_lacks_is_named(
    tiny_artifacts: TinyArtifacts, tmp_path: Path
) -> None:
    config = QUICK.model_copy(update={"fused_blocks": ("ocr",)})
    with pytest.raises(RetrievalError, match=r"The block ocr needs feature_extraction\.ocr"):
        evaluation.run(
            tiny_artifacts.queries_features,
            tiny_artifacts.capture,
            tiny_artifacts.index,
            tiny_artifacts.queries,
            tiny_artifacts.gallery,
            tmp_path / "evaluation",
            config,
        )

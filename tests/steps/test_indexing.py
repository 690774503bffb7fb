import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from product1m.artifacts.folder import open_artifact
from product1m.config import IndexingConfig
from product1m.data.regions import FeatureSet
from product1m.errors import ArtifactError, RetrievalError
from product1m.retrieval.embedding import BlockLayout
from product1m.retrieval.index import GalleryIndex
from product1m.retrieval.search import Searcher, SearchSettings
from tests.support.worlds import tiny_world
from tests.support.worlds.tiny_world import INDEXING, TinyArtifacts

WIDTHS = {"joint": 16, "streams": 16, "image": 24, "text": 24}


def changed(**values: object) -> IndexingConfig:
    return INDEXING.model_copy(update=values)


def build(world: TinyArtifacts, folder: Path, config: IndexingConfig) -> dict[str, float]:
    return tiny_world.build_index(world, folder, config)


def test_the_index_holds_every_gallery_item_in_order_with_its_blocks(
    tiny_artifacts: TinyArtifacts,
) -> None:
    artifact = open_artifact(tiny_artifacts.index, "indexing")
    gallery = FeatureSet(open_artifact(tiny_artifacts.gallery_features, "feature_extraction"))
    index = GalleryIndex.load(artifact)
    assert list(index.ids) == gallery.rows["id"].tolist()
    assert index.rows["labels"].tolist() == gallery.rows["labels"].tolist()
    searcher = Searcher.load(
        artifact,
        open_artifact(tiny_artifacts.capture, "capture_pretraining"),
        SearchSettings.from_config(tiny_world.EVALUATION),
    )
    views = [gallery.regions(row) for row in range(len(gallery))]
    expected = searcher.encoder.vectors(gallery.rows["caption"].tolist(), views, items=True)
    np.testing.assert_allclose(index.vectors(np.arange(len(index))), expected, atol=1e-5)
    layout = BlockLayout(artifact.manifest.details["blocks"])
    assert dict(layout.widths) == WIDTHS
    assert layout.dim == expected.shape[1]


def test_what_the_index_says_of_itself(tiny_artifacts: TinyArtifacts, tmp_path: Path) -> None:
    metrics = build(tiny_artifacts, tmp_path / "index", INDEXING)
    manifest = open_artifact(tmp_path / "index", "indexing").manifest
    assert manifest.metrics == metrics
    assert metrics["recall@100"] == 1.0  # Flat
    assert metrics["num_items"] == 40
    assert metrics["dim"] == 80
    assert metrics["bytes_per_item"] == pytest.approx(80 * 4, abs=4)  # and a header
    assert {"queries_per_s", "exact_queries_per_s", "build_s"} <= metrics.keys()
    assert set(manifest.inputs) == {"gallery_features", "capture"}


def test_the_same_inputs_give_the_same_digest_and_no_pickle(
    tiny_artifacts: TinyArtifacts, tmp_path: Path
) -> None:
    build(tiny_artifacts, tmp_path / "again", INDEXING)
    artifact = open_artifact(tmp_path / "again", "indexing")
    assert artifact.digest == open_artifact(tiny_artifacts.index, "indexing").digest
    suffixes = {Path(name).suffix for name in artifact.manifest.files}
    assert suffixes == {".faiss", ".parquet", ".json", ".safetensors"}


def test_items_outside_the_fitted_sample_are_indexed_all_the_same(
    tiny_artifacts: TinyArtifacts, tmp_path: Path
) -> None:
    metrics = build(
        tiny_artifacts, tmp_path / "index", changed(num_training_items=25, batch_size=7)
    )
    assert metrics["num_items"] == 40
    assert metrics["recall@100"] == 1.0
    index = GalleryIndex.load(open_artifact(tmp_path / "index", "indexing"))
    vectors = index.vectors(np.arange(40))
    _, nearest = index.search(vectors, 1)
    assert nearest[:, 0].tolist() == list(range(40))


def test_an_approximate_index_reports_what_it_misses(
    tiny_artifacts: TinyArtifacts, tmp_path: Path
) -> None:
    few = changed(factory="IVF4,SQ8", probes=1, min_recall=0)
    metrics = build(tiny_artifacts, tmp_path / "index", few)
    assert (metrics["probes"], metrics["recall@100"] < 0.9) == (1, True)
    assert metrics["bytes_per_item"] < 80 * 2


def test_an_approximate_index_visits_what_the_recall_takes(
    tiny_artifacts: TinyArtifacts, tmp_path: Path
) -> None:
    metrics = build(tiny_artifacts, tmp_path / "index", changed(factory="IVF4,SQ8", probes=1))
    assert metrics["recall@100"] >= 0.99
    assert metrics["probes"] > 1
    loaded = GalleryIndex.load(open_artifact(tmp_path / "index", "indexing"))
    vectors = loaded.vectors(np.arange(40))
    assert set(loaded.search(vectors[:1], 40)[1][0]) == set(range(40))


def test_streams_may_be_concatenated(tiny_artifacts: TinyArtifacts, tmp_path: Path) -> None:
    build(tiny_artifacts, tmp_path / "index", changed(streams="concatenation"))
    details = open_artifact(tmp_path / "index", "indexing").manifest.details
    assert details == {"blocks": WIDTHS | {"streams": 32}, "streams": "concatenation"}


def test_a_factory_too_large_for_the_gallery_leaves_nothing_behind(
    tiny_artifacts: TinyArtifacts, tmp_path: Path
) -> None:
    with pytest.raises(RetrievalError, match=r"the gallery gives 40; set indexing\.factory=Flat"):
        build(tiny_artifacts, tmp_path / "index", changed(factory="IVF1024,SQ8"))
    assert not any(tmp_path.iterdir())


def test_features_of_another_rpn_are_refused_with_both_digests(
    tiny_artifacts: TinyArtifacts, tmp_path: Path
) -> None:
    other = tiny_world.write_world(tmp_path / "other", seed=1)
    digests = [open_artifact(world.rpn, "rpn_training").digest for world in (other, tiny_artifacts)]
    shutil.copytree(tiny_artifacts.capture, other.capture)
    with pytest.raises(ArtifactError, match=f"{digests[0]}.* {digests[1]}; run feature_extr"):
        tiny_world.build_index(other)


def test_train_features_are_no_gallery(tiny_artifacts: TinyArtifacts, tmp_path: Path) -> None:
    from product1m.steps import indexing

    with pytest.raises(
        ArtifactError, match="feature_extraction gallery, got one of feature_extrac"
    ):
        indexing.run(
            tiny_artifacts.train_features, tiny_artifacts.capture, tmp_path / "index", INDEXING
        )


def test_captions_and_labels_stand_beside_the_ids(tiny_artifacts: TinyArtifacts) -> None:
    table = pq.read_table(tiny_artifacts.index / "gallery.parquet")
    assert table.column_names == ["id", "caption", "labels", "sha256"]
    json.dumps(table.to_pylist()[0])


def test_wide_blocks_are_reduced_and_queries_with_them(
    tiny_artifacts: TinyArtifacts, tmp_path: Path
) -> None:
    metrics = build(tiny_artifacts, tmp_path / "index", changed(max_block_dim=12))
    assert metrics["dim"] == 48
    index = open_artifact(tmp_path / "index", "indexing")
    assert index.manifest.details["blocks"] == dict.fromkeys(
        ("joint", "streams", "image", "text"), 12
    )
    searcher = Searcher.load(
        index,
        open_artifact(tiny_artifacts.capture, "capture_pretraining"),
        SearchSettings.from_config(tiny_world.EVALUATION),
    )
    gallery = FeatureSet(open_artifact(tiny_artifacts.gallery_features, "feature_extraction"))
    for row in (0, 7, 23):
        item = gallery.rows.iloc[row]
        vectors = searcher.encoder.vectors([item["caption"]], [gallery.regions(row)])
        (ranking,) = searcher.rank_vectors(vectors, {"image": 1.0, "text": 1.0}, 3)
        assert ranking[0][0] == item["id"]
        assert ranking[0][1] == pytest.approx(2, abs=1e-4)
        (by_products,) = searcher.rank_vectors(vectors, {"joint": 1.0, "stream_product": 1.0}, 3)
        assert by_products[0][1] == pytest.approx(2, abs=1e-2)

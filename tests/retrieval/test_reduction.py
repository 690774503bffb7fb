"""Wide blocks with fewer dimensions."""

from pathlib import Path

import numpy as np

from product1m.artifacts.folder import open_artifact, write_artifact
from product1m.config import IndexingConfig
from product1m.retrieval.reduction import Reductions


def spread(num_items: int, width: int, rank: int) -> np.ndarray:
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((num_items, rank)) @ generator.standard_normal((rank, width))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def test_directions_that_hold_everything_keep_every_cosine() -> None:
    blocks = {"image": spread(200, 64, rank=12), "text": spread(200, 16, rank=16)}
    reductions = Reductions.fit(blocks, max_width=16)
    assert list(reductions.directions) == ["image"]
    reduced = reductions.apply(blocks)
    assert reduced["image"].shape == (200, 16)
    assert reduced["text"] is blocks["text"]
    before, after = (b["image"] @ b["image"].T for b in (blocks, reduced))
    np.testing.assert_allclose(after, before, atol=1e-4)


def test_what_is_left_out_is_what_differs_least_and_lengths_stay_one() -> None:
    generator = np.random.default_rng(1)
    scale = np.array([8, 4, 2, 1, 0.1, 0.1])
    rows = (generator.standard_normal((500, 6)) * scale).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    reductions = Reductions.fit({"joint": rows}, max_width=4)
    np.testing.assert_allclose(np.abs(reductions.directions["joint"]), np.eye(6)[:, :4], atol=0.1)
    lengths = np.linalg.norm(reductions.apply({"joint": rows})["joint"], axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-5)


def test_an_index_keeps_its_reductions_and_one_without_any_has_none(tmp_path: Path) -> None:
    blocks = {"image": spread(50, 32, rank=8)}
    reductions = Reductions.fit(blocks, max_width=8)
    for name, written in (("with", reductions), ("without", Reductions())):
        with write_artifact(tmp_path / name, "indexing", IndexingConfig()) as writer:
            written.save(writer.folder)
        read = Reductions.load(open_artifact(tmp_path / name, "indexing"))
        assert read.directions.keys() == written.directions.keys()
    read = Reductions.load(open_artifact(tmp_path / "with", "indexing"))
    np.testing.assert_array_equal(read.apply(blocks)["image"], reductions.apply(blocks)["image"])

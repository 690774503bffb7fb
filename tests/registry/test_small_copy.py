"""A small copy of a model, as the repository keeps one for its demo."""

from pathlib import Path

import pytest
from safetensors.numpy import load_file

from product1m.errors import ArtifactError
from product1m.registry.small_copy import write_small_copy
from product1m.registry.versions import ModelVersion
from product1m.serving.model_folder import MODEL_FOLDER
from product1m.serving.search_page import read_photo, search
from tests.support.paths import ROOT
from tests.support.worlds.registered_model import MlflowStore
from tests.support.worlds.tiny_world import TinyArtifacts

TITLE = "Lumi rose cream"
MAX_BYTES = 10_000_000


@pytest.fixture(scope="module")
def folder(registered: ModelVersion, mlflow_store: MlflowStore) -> Path:
    """The registered version's files."""
    with mlflow_store.active():
        return mlflow_store.files(registered)


def test_a_small_copy_answers_as_the_model_does(
    made: TinyArtifacts, folder: Path, tmp_path: Path
) -> None:
    size = write_small_copy(folder, tmp_path / "small", 128)
    model = folder / "artifacts" / MODEL_FOLDER
    assert size < sum(path.stat().st_size for path in model.rglob("*") if path.is_file()) / 3
    photo = read_photo(made.root / "dataset" / "images" / "queries-2.jpg")
    small, large = (search(photo, TITLE, at, "it", 3) for at in (tmp_path / "small", folder))
    assert len(small.boxes) == len(large.boxes) > 1
    for box, wanted in zip(small.boxes, large.boxes, strict=True):
        assert box.box_xyxy == pytest.approx(wanted.box_xyxy, abs=1)
        assert box.answers[0].id == wanted.answers[0].id
    with pytest.raises(ArtifactError, match="or a small copy already"):
        write_small_copy(tmp_path / "small", tmp_path / "smaller", 64)


def test_the_model_of_the_demo_is_small_and_its_weights_are_plain_numbers() -> None:
    files = [path for path in (ROOT / "demo").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MAX_BYTES
    kinds = {".safetensors", ".json", ".jsonl", ".jpg", ".parquet", ".faiss", ".tar"}
    assert {path.suffix for path in files} == kinds
    weights = load_file(ROOT / "demo/model/artifacts/model/capture/model.safetensors")
    assert {tensor.dtype.name for tensor in weights.values()} == {"float16"}

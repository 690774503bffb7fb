from pathlib import Path

import pytest

from tests.support.worlds import small_catalogue
from tests.support.worlds.tiny_world import TinyArtifacts


@pytest.fixture(scope="session")
def model(made: TinyArtifacts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_catalogue.write_model(made, tmp_path_factory.mktemp("catalogue") / "model")

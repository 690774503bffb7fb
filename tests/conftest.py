"""What several test files share."""

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tiny_world import TinyArtifacts


@pytest.fixture(scope="session")
def tiny_artifacts(tmp_path_factory: pytest.TempPathFactory) -> "TinyArtifacts":
    """A tiny data set taken through pretraining, indexing and evaluation; never write into it."""
    import tiny_world  # torch and faiss load only for the tests that ask for this

    world = tiny_world.write_world(tmp_path_factory.mktemp("tiny"))
    tiny_world.pretrain(world)
    tiny_world.build_index(world)
    tiny_world.evaluate(world, world.evaluation)
    return world

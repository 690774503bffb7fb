"""The Docker engine and the built images, for the tests that need them."""

import docker
import pytest
from docker.errors import DockerException, ImageNotFound

from components.images import image


def built_image(step: str) -> str:
    """The image of a step; skips the test without a Docker engine or without this image."""
    try:
        engine = docker.from_env()
        engine.ping()
    except DockerException:
        pytest.skip("no Docker engine is running")
    try:
        engine.images.get(image(step))
    except ImageNotFound:
        pytest.skip(f"{image(step)} is not built; run `make images`")
    finally:
        engine.close()
    return image(step)

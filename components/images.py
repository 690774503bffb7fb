"""The container image of every step: a name with a version, or what the lock says."""

import re
from collections.abc import Mapping
from pathlib import Path

import yaml

from product1m import __version__
from product1m.config import STEPS
from product1m.errors import PipelineError

LOCK = Path(__file__).parent.parent / "docker" / "images.lock"
"""Step, `mlflow_server` or `serving` to `name@sha256:digest`, as YAML or JSON; `make images` writes
it."""
SERVER, SERVING = "mlflow_server", "serving"
"""The images that belong to no step: MLflow's server, and the server of `product1m serve`."""
SHARED = {"data_state": "ingestion", "catalogue": "registration"}
"""Task without an image of its own to the step whose image it runs in."""
_DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")
_TAG = re.compile(r":(?P<tag>[\w][\w.-]{0,127})$")


def image(step: str) -> str:
    """Image of a step: `product1m/rpn-training:0.1.0`."""
    return f"product1m/{step.replace('_', '-')}:{__version__}"


def locked_images(lock: Path = LOCK) -> dict[str, str]:
    """Step to image: what the lock says, or `image(step)` for every step if there is no lock.

    Raises PipelineError if a step is missing or unknown, or if an image could change under its
    name: the cluster's cache key contains the image's name, not its content.
    """
    if not lock.is_file():
        return {step: image(step) for step in STEPS}
    images = read_lock(lock)
    for step in sorted(images.keys() - {SERVER, SERVING} ^ set(STEPS)):
        reason = "no image for" if step in STEPS else "an image for the unknown step"
        raise PipelineError(f"{lock}: {reason} {step}; expected {', '.join(STEPS)}")
    return {step: _checked(images[step], step, lock) for step in STEPS}


def image_of(task: str, images: Mapping[str, str]) -> str:
    """The image of a task's component, of the images by step."""
    return images[SHARED.get(task, task)]


def read_lock(lock: Path = LOCK) -> dict[str, object]:
    """Everything that the lock names, as it is; PipelineError if it is missing or not a mapping."""
    try:
        content = yaml.safe_load(lock.read_text("utf-8"))
    except FileNotFoundError:
        raise PipelineError(f"{lock}: does not exist; run `make images` first") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PipelineError(f"{lock}: not YAML or JSON: {error}; run `make images`") from error
    if not isinstance(content, Mapping):
        raise PipelineError(f"{lock}: expected a mapping of step to image; run `make images`")
    return {str(step).replace("-", "_"): reference for step, reference in content.items()}


def _checked(reference: object, step: str, lock: Path) -> str:
    """The reference; PipelineError if its content can change."""
    text = str(reference)
    named = _DIGEST.sub("", text)
    tag = None if "@" in named else _TAG.search(named)
    if tag and tag["tag"] == "latest":
        reason = "`latest` may be another image tomorrow"
    elif not (tag or _DIGEST.search(text)):
        reason = "it has neither a digest nor a tag"
    else:
        return text
    raise PipelineError(
        f"{lock}: {step}: {text!r}: {reason}; expected name@sha256:<64 hex digits>, "
        "run `make images`"
    )

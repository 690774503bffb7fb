"""What a server answers with: one object that never changes, and the one reference to it.

A request takes the reference once and keeps the object until it is answered, so that a newer model
or catalogue can be put in its place at any moment: no request sees half of one and half of another.
"""

import logging
import threading
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from product1m.artifacts.folder import Artifact
from product1m.artifacts.model_parts import INDEX, THUMBNAILS
from product1m.serving.catalogue_folder import model_digest, require_model
from product1m.serving.model_folder import MODEL_FOLDER, open_part
from product1m.serving.service import SearchService
from product1m.serving.thumbnails import Thumbnails
from product1m.storage.scratch import scratch_folder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServedModel:
    """A model with the catalogue that it searches, loaded; only ever replaced as a whole."""

    name: str
    """How it was asked for, as in `models:/product1m@champion`."""
    service: SearchService
    thumbnails: Thumbnails
    model_digest: str
    """Digest of everything that computes vectors: RPN, CAPTURE, settings."""
    catalogue_digest: str
    """Digest of the index with its items."""
    is_signed: bool
    """Whether a trusted signature covers it."""
    is_sample: bool = False
    """Whether it was trained on sample data, as far as that is known."""


def load_served(folder: Path, name: str, is_signed: bool, is_sample: bool = False) -> ServedModel:
    """Load an MLflow model's folder, which somebody has verified, with this package's code.

    Raises ArtifactError for a file that is damaged or missing.
    """
    model = folder / "artifacts" / MODEL_FOLDER
    return ServedModel(
        name=name,
        service=SearchService.load(model),
        thumbnails=Thumbnails(model / THUMBNAILS),
        model_digest=model_digest(model),
        catalogue_digest=open_part(model, INDEX).manifest.digest,
        is_signed=is_signed,
        is_sample=is_sample,
    )


def with_catalogue(served: ServedModel, catalogue: Artifact) -> ServedModel:
    """The same model with a catalogue in the place of its own gallery.

    Raises ArtifactError if the catalogue is damaged or of another model, by name.
    """
    require_model(catalogue, served.model_digest, served.name)
    return replace(
        served,
        service=served.service.with_catalogue(catalogue),
        thumbnails=Thumbnails(catalogue.folder / THUMBNAILS),
        catalogue_digest=catalogue.digest,
    )


def load_from_scratch(load: Callable[[Path], ServedModel]) -> ServedModel:
    """Load what has to be downloaded; its files are removed with the last use of the model.

    Args:
        load: fetches into the folder that it is given, verifies, and loads.
    """
    with ExitStack() as stack:
        served = load(stack.enter_context(scratch_folder()))
        weakref.finalize(served, stack.pop_all().close)
    return served


class Live:
    """The reference to what is served, and the only place where it changes."""

    def __init__(self, load: Callable[[], ServedModel]) -> None:
        """Load for the first time.

        Args:
            load: verifies before it reads, and raises rather than return what may not be served.
        """
        self._load = load
        self._one_at_a_time = threading.Lock()
        self._current = load()

    @property
    def current(self) -> ServedModel:
        """What answers now; take it once for each request."""
        return self._current

    def reload(self, load: Callable[[], ServedModel] | None = None) -> ServedModel:
        """Verify and load again, by `load` or as at the start, then swap in one step.

        An error of `load` is raised, and the old model is still served.
        """
        with self._one_at_a_time:
            fresh = (load or self._load)()
            before, self._current = self._current, fresh
        logger.info(
            "serving model %.12s with catalogue %.12s; before: %.12s with %.12s",
            fresh.model_digest,
            fresh.catalogue_digest,
            before.model_digest,
            before.catalogue_digest,
        )
        return fresh

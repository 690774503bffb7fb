"""A running server follows the alias `live`: it answers from each new catalogue as it appears."""

import logging
import threading
from pathlib import Path

from product1m.artifacts.folder import Artifact
from product1m.catalogue.registering import fetch_catalogue, live_version
from product1m.errors import Product1MError
from product1m.registry.versions import ModelVersion
from product1m.serving.live import Live, ServedModel, load_from_scratch, with_catalogue

logger = logging.getLogger(__name__)


class CatalogueFollower:
    """Puts the live catalogue behind the reference that requests take; no request waits for it.

    Args:
        live: what is served.
        name: of the registered model whose alias `live` is followed.
    """

    def __init__(self, live: Live, name: str) -> None:
        self._live = live
        self._name = name
        self._model = live.current  # keeps the files of its own gallery as long as it is served
        self._number = ""
        self._catalogue: Artifact | None = None
        self._failure = ""
        self._ended = threading.Event()

    def check(self) -> bool:
        """Serve the live catalogue unless it is served already; True if it was swapped in.

        Raises ArtifactError for a catalogue of another model, by name, or a damaged one, and
        RegistryError if MLflow does not answer; what was served is served on.
        """
        version = live_version(self._name)
        if version is None or version.number == self._number:
            return False
        self._live.reload(lambda: load_from_scratch(lambda scratch: self._load(version, scratch)))
        self._number = version.number
        return True

    def start(self, interval_s: float) -> None:
        """Check again and again in a thread that ends with the process."""
        threading.Thread(
            target=self._run, args=(interval_s,), name="catalogue", daemon=True
        ).start()

    def stop(self) -> None:
        """End the thread."""
        self._ended.set()

    def _load(self, version: ModelVersion, scratch: Path) -> ServedModel:
        digest, name = self._model.model_digest, self._model.name
        catalogue = fetch_catalogue(version, digest, name, scratch, self._catalogue)
        served = with_catalogue(self._model, catalogue)
        self._catalogue = catalogue
        return served

    def _run(self, interval_s: float) -> None:
        while not self._ended.wait(interval_s):
            try:
                self.check()
                self._failure = ""
            except Product1MError as error:
                if str(error) != self._failure:  # once, not at each check
                    logger.error("the catalogue that is served stays as it is: %s", error)
                self._failure = str(error)

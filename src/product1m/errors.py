"""Errors that users can fix; each message says where, what was expected and what to do."""


class Product1MError(Exception):
    """An error that a user can fix; the command line prints it without a traceback."""


RANK_EXIT_CODE = 65
"""Exit code of a training process that ends with a Product1MError among several: starting the
processes again would end in the same way."""


class ConfigError(Product1MError):
    """An unknown key, a value out of range, a preset that does not exist."""


class DatasetError(Product1MError):
    """Lists or photos that cannot be used, or too many quarantined items."""


class PhotoError(DatasetError):
    """A photo that cannot be read or used; the message is the reason in the quarantine."""


class ArtifactError(Product1MError):
    """An artifact that is missing, unfinished, damaged, or made from other inputs."""


class StorageError(Product1MError):
    """A path or URI that cannot be read or written."""


class NotStoredError(StorageError):
    """No file at an address; the store was reached."""


class TooLargeError(StorageError):
    """A file that is larger than its reader accepts; it is not read."""

    def __init__(self, address: str, num_bytes: int, max_bytes: int) -> None:
        super().__init__(f"{address} has {num_bytes} bytes, more than {max_bytes}")
        self.num_bytes = num_bytes
        self.max_bytes = max_bytes


class TrainingError(Product1MError):
    """Training that cannot continue, for example with a loss that is not finite."""


class RetrievalError(Product1MError):
    """A query that cannot be answered, or an index that does not fit its model."""


class RegistryError(Product1MError):
    """The model registry refuses a request, or a version is not valid."""


class TrackingError(Product1MError):
    """MLflow cannot be reached, or refuses a step's report."""


class PipelineError(Product1MError):
    """A pipeline run that cannot start, or a step of it that failed."""

"""Everything this project raises on purpose; each message says where, what came, what to do."""


class Product1MError(Exception):
    """What a user can mend; the command line prints it without a traceback."""


class ConfigError(Product1MError):
    """An unknown key, a value out of range, a preset that does not exist."""


class DatasetError(Product1MError):
    """Lists or photos that cannot be used, or too many that had to be set aside."""


class PhotoError(DatasetError):
    """A photo that cannot be had or used; the message is the reason its item is set aside."""


class ArtifactError(Product1MError):
    """A step's folder that is missing, unfinished, damaged, or of another lineage."""


class StorageError(Product1MError):
    """A path or URI that cannot be read or written."""


class NotStoredError(StorageError):
    """Nothing lies at an address; the store itself answered."""


class TooLargeError(StorageError):
    """A file with more bytes than its reader takes; it is not read."""

    def __init__(self, address: str, num_bytes: int, max_bytes: int) -> None:
        super().__init__(f"{address} has {num_bytes} bytes, more than {max_bytes}")
        self.num_bytes = num_bytes
        self.max_bytes = max_bytes


class TrainingError(Product1MError):
    """A loss that is not finite, or a checkpoint that does not fit."""


class RetrievalError(Product1MError):
    """A query that cannot be answered, or an index that does not fit its model."""


class RegistryError(Product1MError):
    """The model registry refuses, or a version is not what it claims."""


class TrackingError(Product1MError):
    """MLflow cannot be reached, or refuses what a step reports."""


class PipelineError(Product1MError):
    """A pipeline run that could not start, or a step of one that failed."""

"""Everything this project raises on purpose; each message says where, what came, what to do."""


class Product1MError(Exception):
    """What a user can mend; the command line prints it without a traceback."""


class ConfigError(Product1MError):
    """An unknown key, a value out of range, a preset that does not exist."""


class DatasetError(Product1MError):
    """Lists or photos that cannot be used, or too many that had to be set aside."""


class ArtifactError(Product1MError):
    """A step's folder that is missing, unfinished, damaged, or of another lineage."""


class StorageError(Product1MError):
    """A path or URI that cannot be read or written."""


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

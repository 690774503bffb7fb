"""Checks within seconds of a run what it would otherwise find out after hours."""

import os
from pathlib import Path

from pipelines.graph.data import check_dataset, existing
from product1m.capture.bert_files import check_bert_files
from product1m.config import Config
from product1m.data.list_checks import check_lists
from product1m.data.lists import find_lists
from product1m.data.photo_sources import EXTENSIONS, local_lists
from product1m.data.state import BACKGROUNDS
from product1m.detection.encoder_recipe import BACKBONE, CONFIG, HUB, OPEN_CLIP, TIMM, unusable
from product1m.errors import ConfigError, DatasetError, PipelineError
from product1m.storage.opening import open_file, open_store


def check_data(config: Config, dataset: str, backgrounds: str) -> None:
    """Read the lists and refuse what ingestion or a later step would refuse.

    Raises DatasetError or ConfigError with the list, line or setting to change.
    """
    data = check_dataset(dataset)
    with local_lists(data.uri) as folder:
        lists = find_lists(folder, data.uri)
        check_lists(lists, config.ingestion, config.background_synthesis, config.indexing)
    photos = existing(backgrounds, "--backgrounds") if backgrounds else None
    own = open_store(f"{data.uri}/{BACKGROUNDS}")
    names = [file.name for file in (photos or own).files()]
    if names and not any(name.lower().endswith(EXTENSIONS) for name in names):
        raise DatasetError(
            f"{(photos or own).uri}: expected background photos "
            f"({', '.join(EXTENSIONS)}), got other files only, for example {min(names)}"
        )
    if photos and not names:
        raise DatasetError(f"--backgrounds {photos.uri}: holds no files; leave it out to draw them")


def check_models(config: Config) -> None:
    """ConfigError if a model that the configuration names by its path does not exist or fit."""
    if config.capture_pretraining.text_model != "scratch":
        check_bert_files(config.capture_pretraining)
    _check_crop_encoder(config.feature_extraction.crop_encoder)
    weights = config.rpn_training.weights
    if weights == "none" or weights.startswith(("hub:", "package:")):
        return
    store, name = open_file(weights)
    if store.find(name) is None:
        raise ConfigError(
            f"rpn_training.weights={weights!r}: no such file; expected none, hub:NAME, "
            "package:efficientnet-lite0, or the path or s3:// address of a safetensors file"
        )


def _check_crop_encoder(name: str) -> None:
    """The step itself checks hubs, and what is in the files."""
    if name in ("", BACKBONE) or name.startswith((TIMM, HUB)):
        return
    if name.endswith(".safetensors"):
        store, file = open_file(name)
        is_there = store.find(file) is not None
    else:
        store = open_store(name)
        is_there = any(store.find(file) is not None for file in (CONFIG, OPEN_CLIP))
    if not is_there:
        raise unusable(name, "there is no such encoder")


def check_writable(output: Path) -> None:
    """Create the output folder; PipelineError if nothing can be written there."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        probe = output / f".writable-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise PipelineError(
            f"--output {output}: cannot be written ({error.strerror}); use a folder that you may "
            "write to"
        ) from error

"""Pretrained weights that a model was made with, and their licenses."""

from collections.abc import Iterator, Mapping

import yaml
from pydantic import BaseModel, ConfigDict

from product1m.artifacts.manifest import Summary

PRETRAINED = "pretrained"
"""Key in the details of a trained network: the pretrained weights that it started from."""
UNKNOWN = "unknown"
"""License of weights that state none."""
CARD = "README.md"
"""Model card as hubs write it: its YAML front matter names the license."""
MAX_CARD_BYTES = 1 << 20
"""Largest model card that is read (ours)."""
INITIAL = {
    "rpn_training": ("backbone", "weights", "none"),
    "capture_pretraining": ("text model", "text_model", "scratch"),
}
"""What a training may start from: its name, the setting, and the setting's value for nothing."""
FROZEN = {"ocr": ("OCR reader", "source"), "crop": ("crop encoder", "encoder")}
"""What else computes features: key in their details to its name and the key of its source."""
OWN = "backbone"
"""Source of a crop encoder that is the model's own backbone, whose record is the network's."""


class PretrainedWeights(BaseModel):
    """Weights that somebody else trained."""

    model_config = ConfigDict(frozen=True)

    name: str
    """What they are used as: `backbone`, `text model`, `OCR reader`, …"""
    source: str
    """Where they came from, as configured."""
    license: str = UNKNOWN

    def __str__(self) -> str:
        return f"{self.name} {self.source}: {self.license}"


def license_in_card(card: str) -> str:
    """License in the YAML front matter of a model card; unknown if it states none."""
    try:
        stated = yaml.safe_load(card.split("---")[1] if card.startswith("---") else "")
    except (IndexError, yaml.YAMLError):
        return UNKNOWN
    values = stated if isinstance(stated, dict) else {}
    named = values.get("license")
    named = values.get("license_name") if named == "other" else named
    return named if isinstance(named, str) and named else UNKNOWN


def initial_weights(step: str, source: str, license_: str) -> list[PretrainedWeights]:
    """What a training started from; nothing if its setting says that it started at random."""
    name, _, nothing = INITIAL[step]
    return (
        [] if source == nothing else [PretrainedWeights(name=name, source=source, license=license_)]
    )


def recorded_weights(summary: Summary) -> list[PretrainedWeights]:
    """The pretrained weights of one artifact; those without a record have an unknown license."""
    details = summary.details
    if summary.step in INITIAL:
        if PRETRAINED in details:
            return [PretrainedWeights.model_validate(entry) for entry in details[PRETRAINED]]
        _, setting, _ = INITIAL[summary.step]
        source = summary.config.get("warm_start") or summary.config.get(setting, UNKNOWN)
        return initial_weights(summary.step, str(source), UNKNOWN)
    weights = [
        PretrainedWeights(
            name=name,
            source=str(details[key].get(source) or UNKNOWN),
            license=str(details[key].get("license") or UNKNOWN),
        )
        for key, (name, source) in FROZEN.items()
        if key in details
    ]
    return [entry for entry in weights if entry.source != OWN]


def pretrained_in(lineage: Mapping[str, Summary]) -> list[PretrainedWeights]:
    """All pretrained weights that a model was made with, each once."""

    def weights() -> Iterator[PretrainedWeights]:
        for summary in lineage.values():
            yield from recorded_weights(summary)

    return list(dict.fromkeys(weights()))

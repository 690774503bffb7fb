"""The configuration explained: every key with value, default, origin, meaning and source.

Everything comes from the sections; `docs/configuration.md` is generated from them.
"""

import re
import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pydantic.fields import FieldInfo

from product1m.config.loading import (
    SECTIONS,
    Preset,
    load_config,
    preset_values,
    section_model,
)

_SOURCE = re.compile(r"\s*\((?P<source>(?:paper|released code|ours)[^()]*)\)")
_BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}

INTRODUCTION = """\
# Configuration

<!-- Generated from src/product1m/config/ by `make docs`; change the files there instead. -->

All settings of the workflow, one section for each step. The defaults are the *reference* preset,
the scale of the paper. The *sample* preset uses smaller sizes and fewer passes for the same work.
The *small* preset is for your own photos: the sample's sizes, but scenes and steps follow the data
(`background_synthesis.scenes_per_cutout`, `min_steps`).
Change a value with `--set section.key=value` and the seed of all steps with `--set seed=N`.
`product1m config show` prints the values in effect. The last column says where a default comes
from; `reproduction.md` gives the reasons.
"""


@dataclass(frozen=True)
class Setting:
    """One key of the effective configuration."""

    section: str
    key: str
    value: Any
    default: Any
    origin: str
    """`default`, `preset sample`, or `--set`."""
    allowed: str
    """Type and range."""
    meaning: str
    source: str
    """`paper`, `released code` or `ours`, with what the docstring adds."""


def settings(preset: Preset, overrides: Iterable[str] = ()) -> Iterator[Setting]:
    """Every key, in the order of the sections; ConfigError as `load_config` raises it."""
    overrides = list(overrides)
    config = load_config(preset, overrides)
    in_preset = preset_values(preset)
    set_keys = {override.partition("=")[0] for override in overrides}
    for section in SECTIONS:
        model = section_model(section)
        for key, field in model.model_fields.items():
            origin = f"preset {preset}" if key in in_preset.get(section, {}) else "default"
            if set_keys & {f"{section}.{key}", key if key == "seed" else ""}:
                origin = "--set"
            meaning, source = split_source(field.description or "")
            yield Setting(
                section=section,
                key=key,
                value=getattr(getattr(config, section), key),
                default=field.default,
                origin=origin,
                allowed=allowed_values(field),
                meaning=meaning,
                source=source,
            )


def split_source(description: str) -> tuple[str, str]:
    """The meaning and the source of a docstring; the source is empty if there is none."""
    text = " ".join(description.split())
    matches = list(_SOURCE.finditer(text))
    if not matches:
        return text, ""
    last = matches[-1]
    return (text[: last.start()] + text[last.end() :]).rstrip(". "), last["source"]


def allowed_values(field: FieldInfo) -> str:
    """Type and range of a field in words: `float, ≥ 0, ≤ 1`."""
    bounds = [
        f"{sign} {getattr(item, name):g}"
        for item in field.metadata
        for name, sign in _BOUNDS.items()
        if hasattr(item, name)
    ]
    return ", ".join([_type_name(field.annotation), *bounds])


def _type_name(annotation: Any) -> str:
    origin = typing.get_origin(annotation)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in typing.get_args(annotation))
    if origin in (tuple, list):
        return f"list of {_type_name(typing.get_args(annotation)[0])}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type_name(part) for part in typing.get_args(annotation))
    if origin is typing.Annotated:
        return _type_name(typing.get_args(annotation)[0])
    return "nothing" if annotation is type(None) else str(annotation.__name__)


def configuration_page() -> str:
    """The text of `docs/configuration.md`."""
    sample = {(s.section, s.key): s for s in settings("sample")}
    lines = [INTRODUCTION]
    section = ""
    for setting in settings("reference"):
        if setting.section != section:
            section = setting.section
            lines += [f"## {section}", "", (section_model(section).__doc__ or "").strip(), ""]
            lines += ["| key | type | reference | sample | meaning | source |"]
            lines += ["| --- | --- | --- | --- | --- | --- |"]
        shrunk = sample[section, setting.key].value
        cells = (
            f"`{setting.key}`",
            setting.allowed,
            shown(setting.default),
            shown(shrunk) if shrunk != setting.default else "",
            setting.meaning,
            setting.source,
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        if _is_last(section, setting.key):
            lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def shown(value: Any) -> str:
    """A value as a user types it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return ", ".join(shown(item) for item in value)
    return f"{value:,}".replace(",", " ") if isinstance(value, int) else str(value)


def _is_last(section: str, key: str) -> bool:
    return list(section_model(section).model_fields)[-1] == key

"""`manifests/schedules.yaml`: what runs when, checked without a cluster."""

import hashlib
import json
import re
from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from cronsim import CronSim, CronSimError
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from pipelines.graph.data import stated_parameters
from pipelines.graph.package import PipelineKind, Variant
from pipelines.graph.resources import Profile
from product1m.config import Preset
from product1m.errors import ConfigError
from product1m.registry.roles import CHAMPION_URI, EXPERIMENT

OF_TRAINING = ("dataset_digest", "backgrounds", "when", "cache", "work_volume")
"""Fields of an entry that a refresh of the catalogue does not have."""
_RANGES = {
    "second": "0-59",
    "minute": "0-59",
    "hour": "0-23",
    "day of month": "1-31 or ?",
    "month": "1-12 or JAN-DEC",
    "day of week": "0-6 or SUN-SAT, or ?",
}


def checked_cron(expression: str) -> str:
    """The expression; ValueError says which field is wrong.

    KFP reads it with robfig/cron, which takes five fields for six without the last: crontab's
    `0 3 * * 1` would be every hour of January at minute 3.
    """
    fields = expression.split()
    if len(fields) != len(_RANGES):
        hint = f"; write `0 {expression}` for that crontab line" if len(fields) == 5 else ""
        raise ValueError(
            f"expected six fields ({' '.join(name.replace(' ', '-') for name in _RANGES)}), "
            f"got {len(fields)}{hint}"
        )
    for index, ((name, allowed), value) in enumerate(zip(_RANGES.items(), fields, strict=True)):
        alone = ["*"] * len(fields)
        alone[index] = value
        if not _is_field(value, name) or not _parses(" ".join(alone)):
            raise ValueError(f"{name} {value!r}: expected {allowed}, or *, lists, ranges, steps")
    if not _parses(expression):
        raise ValueError("no such day exists")
    return expression


def in_words(expression: str) -> str:
    """`At 03:00 on Monday`."""
    words: str = CronSim(_readable(expression), datetime(2026, 1, 1)).explain()
    day, weekday = expression.split()[3], expression.split()[5]
    if not day.startswith(("*", "?")) and not weekday.startswith(("*", "?")):
        words += ", whichever comes (a day of the month or a day of the week)"
    return words


def next_times(expression: str, after: datetime, number: int = 3) -> list[datetime]:
    """The next times of the expression, in the time zone of `after`."""
    times: Iterator[datetime] = CronSim(_readable(expression), after)
    return list(islice(times, number))


class Schedule(BaseModel):
    """An entry of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,50}[a-z0-9])?$")]
    cron: Annotated[str, AfterValidator(checked_cron)]
    pipeline: Literal["training", "catalogue"] = "training"
    """`catalogue` refreshes what can be found; its one task finds out itself what changed."""
    model: str = CHAMPION_URI
    """For a catalogue, and with `when: drifted`: the promoted model that builds it."""
    dataset: str
    dataset_digest: str = ""
    """A name for the state of the data; the cache is valid for one name."""
    backgrounds: str = ""
    preset: Preset = "reference"
    profile: Profile | None = None
    overrides: Annotated[tuple[str, ...], Field(alias="set")] = ()
    """`section.key=value` as on the command line."""
    when: Literal["changed", "drifted", "always"] = "changed"
    """What a run does: what changed data require, every task each time, or a refresh of the
    catalogue, and what changed data require only if it has moved too far from the model."""
    cache: bool = True
    """False is the same as `when: always`."""
    work_volume: str = ""
    version: str = ""
    """Name of a version on the cluster; default: this checkout is compiled and uploaded."""
    experiment: str = EXPERIMENT
    service_account: str = ""
    pipeline_root: str = ""
    max_concurrency: Annotated[int, Field(ge=1, le=10)] = 1
    no_catchup: bool = True
    """Otherwise a schedule that was off starts a run for every time it missed."""
    enabled: bool = True

    @model_validator(mode="after")
    def _fits_its_pipeline(self) -> "Schedule":
        """ValueError for a field that the other pipeline has."""
        excluded = {"training": ("model",), "catalogue": OF_TRAINING, "drift": ()}[self.kind]
        if misplaced := [name for name in excluded if name in self.model_fields_set]:
            hint = "" if self.pipeline == "catalogue" else " without `when: drifted`"
            raise ValueError(f"pipeline {self.pipeline} has no {', '.join(misplaced)}{hint}")
        if self.when == "drifted" and not self.cache:
            raise ValueError("cache: false runs every task, whatever drifted; leave one of the two")
        return self

    @property
    def kind(self) -> PipelineKind:
        """Which graph its runs have."""
        return "drift" if self.when == "drifted" else self.pipeline

    @property
    def wanted(self) -> Variant:
        """What its runs do, all overrides included."""
        cache = self.cache and self.when != "always"
        return Variant(
            self.preset,
            self.profile,
            cache,
            self.work_volume,
            self.overrides,
            kind=self.kind,
        )

    @property
    def variant(self) -> Variant:
        """What is compiled for it."""
        return self.wanted.for_run()

    def parameters(self) -> dict[str, Any]:
        """The parameters of its runs."""
        data = {"dataset_uri": self.dataset}
        if self.pipeline == "training":
            data = stated_parameters(self.dataset, self.backgrounds, self.dataset_digest)
        model = {} if self.kind == "training" else {"model": self.model}
        return {**data, **model, **self.wanted.run_parameters()}

    def fingerprint(self, version: str) -> str:
        """A digest of everything that requires a replacement when it changes.

        Of the version only the content counts, so a commit that changes nothing here replaces
        nothing. Enabling and disabling needs no replacement.
        """
        excluded = {"enabled", "version", "when"}
        if self.kind == "training":  # the same fingerprint as before there were other pipelines
            excluded |= {"pipeline", "model"}
        what = {
            **self.model_dump(mode="json", exclude=excluded),
            "cache": self.wanted.cache,
            "content": version.rpartition("-")[2],
            "parameters": self.parameters(),
        }
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


class ScheduleFile(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    timezone: str = "UTC"
    schedules: tuple[Schedule, ...]

    @property
    def zone(self) -> ZoneInfo:
        """The cluster's time zone."""
        return time_zone(self.timezone)


def time_zone(name: str) -> ZoneInfo:
    """The zone; ConfigError if there is none of that name."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ConfigError(f"timezone: {error}; expected a name like Europe/Berlin") from error


def read_schedules(path: Path) -> ScheduleFile:
    """The file; ConfigError names the entry and the field that is wrong."""
    try:
        file = ScheduleFile.model_validate(yaml.safe_load(path.read_text("utf-8")))
        time_zone(file.timezone)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    except ValidationError as error:
        raise ConfigError("\n".join(_mistakes(path, error))) from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    names = [schedule.name for schedule in file.schedules]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"{path}: {', '.join(twice)}: a name can be used only once")
    for schedule in file.schedules:
        schedule.parameters()  # a mistyped override stops here
    return file


def _mistakes(path: Path, error: ValidationError) -> Iterator[str]:
    given = yaml.safe_load(path.read_text("utf-8"))
    for mistake in error.errors(include_url=False):
        place = list(mistake["loc"])
        if place[:1] == ["schedules"] and len(place) > 1 and isinstance(place[1], int):
            entry = given["schedules"][place[1]]
            name = entry.get("name", place[1]) if isinstance(entry, dict) else place[1]
            place = [name, *place[2:]]
        reason = mistake["msg"].removeprefix("Value error, ")
        yield f"{path}: {'.'.join(map(str, place))}: {reason}"


def _is_field(value: str, name: str) -> bool:
    """Whether robfig/cron knows every character in it: no L, W or #, no 7 for Sunday."""
    pattern = r"[\d*/,-]+|\?" if "day of" in name else r"[\d*/,-]+"
    if name in ("month", "day of week"):
        pattern += r"|(?i:[\d*/,-]|[a-z]{3})+"
    return bool(re.fullmatch(pattern, value)) and not (name == "day of week" and "7" in value)


def _parses(expression: str) -> bool:
    try:
        CronSim(_readable(expression), datetime(2026, 1, 1))
    except CronSimError:
        return False
    return True


def _readable(expression: str) -> str:
    return expression.replace("?", "*")

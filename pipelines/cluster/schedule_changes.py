"""How a schedule of the cluster differs from its entry in the file, field by field.

The pipeline API fills in what an entry leaves out, its own service account for example, and does
not know what was compiled. The description of a schedule that is ours says both.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import kfp_server_api as api

from pipelines.cluster.api import Cluster, NotFoundError
from pipelines.cluster.schedules import Schedule
from pipelines.graph.parameters import parameter
from product1m.config import SECTIONS

MARK = "product1m schedule "
"""Begins the description of a schedule that is ours; fingerprint and notes follow."""
MAX_DESCRIPTION = 255
"""Characters that every version of KFP's database holds (ours)."""
_COMPILED = ("preset", "profile", "cache", "work_volume")
"""Fields of an entry that are compiled into the version."""
_FILLED_IN = ("service_account", "pipeline_root")
"""Fields that the server fills in where an entry leaves them out."""
_NONE = "none"


class Names(NamedTuple):
    """Names of what schedules refer to by id."""

    experiments: Mapping[str, str]
    versions: Mapping[str, str]


def names_of(cluster: Cluster, existing: Iterable[api.V2beta1RecurringRun]) -> Names:
    """The names of the experiments and versions of these schedules; deleted ones are absent."""
    schedules = list(existing)
    if not schedules:
        return Names({}, {})
    experiments = cluster.all_of(
        "listing experiments",
        cluster.experiments.experiment_service_list_experiments,
        "experiments",
        **cluster.scope,
    )
    references = {
        (schedule.pipeline_version_reference.pipeline_id, version)
        for schedule in schedules
        if (version := _version_id(schedule))
    }
    versions = {}
    for pipeline, version in references:
        method = cluster.pipelines.pipeline_service_get_pipeline_version
        try:
            stored = cluster.call("reading a version", method, pipeline, version)
        except NotFoundError:
            continue
        versions[version] = str(stored.display_name)
    return Names({entry.experiment_id: entry.display_name for entry in experiments}, versions)


def description(schedule: Schedule, version: str) -> str:
    """The description of the schedule: mark, fingerprint, and what the server does not return."""
    notes = [f"{name}={_noted(schedule, name)}" for name in _COMPILED]
    given = [name for name in _FILLED_IN if getattr(schedule, name)]
    notes.append(f"given={','.join(given)}")
    mark = MARK + schedule.fingerprint(version)
    whole = f"{mark} {' '.join(notes)}"
    return whole if len(whole) <= MAX_DESCRIPTION else mark


def is_of(recurring: api.V2beta1RecurringRun, schedule: Schedule, version: str) -> bool:
    """Whether the schedule of the cluster was made from this entry and version."""
    mark = MARK + schedule.fingerprint(version)
    text = str(recurring.description)
    return text == mark or text.startswith(f"{mark} ")


def differences(
    schedule: Schedule, version: str, old: api.V2beta1RecurringRun, names: Names
) -> list[str]:
    """`field: what it is -> what it becomes` of every field that differs; empty if none does."""
    notes = _notes(old)
    pairs = {
        "cron": (_cron(old), schedule.cron),
        "max_concurrency": (int(old.max_concurrency or 0), schedule.max_concurrency),
        "no_catchup": (bool(old.no_catchup), schedule.no_catchup),
        "experiment": (
            names.experiments.get(old.experiment_id, old.experiment_id),
            schedule.experiment,
        ),
    }
    pairs |= {name: (notes[name], _noted(schedule, name)) for name in _COMPILED if name in notes}
    pairs |= _filled_in(schedule, old, notes)
    changed = [
        f"{name}: {before} -> {after}" for name, (before, after) in pairs.items() if before != after
    ]
    changed += _changed_parameters(schedule, old)
    name = names.versions.get(_version_id(old), _version_id(old) or _NONE)
    if name.rpartition("-")[2] != version.rpartition("-")[2]:
        changed.append(f"version: {name} -> {version}")
    if not changed and not notes:
        return ["description: of an earlier revision -> of this one"]
    return changed


def _filled_in(
    schedule: Schedule, old: api.V2beta1RecurringRun, notes: Mapping[str, str]
) -> dict[str, tuple[Any, Any]]:
    """Before and after of the fields that count only where an entry names them."""
    runtime = old.runtime_config
    current = {
        "service_account": old.service_account or "",
        "pipeline_root": (runtime and runtime.pipeline_root) or "",
    }
    given = notes.get("given", "").split(",")
    pairs = {}
    for name, value in current.items():
        wanted = getattr(schedule, name)
        if wanted or name in given:
            was_left_out = bool(notes) and name not in given
            before = "the installation's" if was_left_out else value or _NONE
            pairs[name] = (before, wanted or "the installation's")
    return pairs


def _changed_parameters(schedule: Schedule, old: api.V2beta1RecurringRun) -> Iterator[str]:
    """Differences of the parameters; a section that one side leaves out has its defaults."""
    before = (old.runtime_config and old.runtime_config.parameters) or {}
    after = schedule.parameters()
    default = schedule.variant.configuration()
    for name in sorted(before.keys() | after.keys()):
        is_section = name in SECTIONS
        left_out: Any = parameter(default, name) if is_section else ""
        old_value, value = before.get(name, left_out), after.get(name, left_out)
        if not is_section:
            if old_value != value:
                yield f"{name}: {old_value or _NONE} -> {value or _NONE}"
            continue
        for key in sorted(old_value.keys() | value.keys()):
            if old_value.get(key) != value.get(key):
                yield f"{name}.{key}: {old_value.get(key)} -> {value.get(key)}"


def _notes(recurring: api.V2beta1RecurringRun) -> dict[str, str]:
    """What the description notes; empty for one of an earlier revision."""
    words = str(recurring.description).removeprefix(MARK).split()[1:]
    return {name: value for word in words for name, _, value in [word.partition("=")]}


def _noted(schedule: Schedule, name: str) -> str:
    if name == "cache":
        return str(schedule.wanted.cache).lower()
    value = getattr(schedule, name)
    if name == "profile":
        return value or "default"
    return value or _NONE


def _cron(schedule: api.V2beta1RecurringRun) -> str:
    trigger = schedule.trigger and schedule.trigger.cron_schedule
    return (trigger.cron or "") if trigger else ""


def _version_id(schedule: api.V2beta1RecurringRun) -> str:
    reference = schedule.pipeline_version_reference
    return str((reference and reference.pipeline_version_id) or "")

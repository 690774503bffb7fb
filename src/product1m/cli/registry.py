"""`product1m registry`: list, compare, promote and reject registered versions."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from product1m.cli.next_steps import PROMOTE, after_list, after_show, say_next
from product1m.cli.options import AllowUnsigned
from product1m.cli.terminal import print_markdown
from product1m.config import RegistrationConfig
from product1m.errors import counted
from product1m.registry import signing
from product1m.registry.roles import (
    CATALOGUE,
    CHALLENGER,
    EXPERIMENT,
    PIPELINE,
    REVIEWER,
    ModelNames,
)
from product1m.serving.signatures import KEYS, Trust, default_folder
from product1m.storage.scratch import scratch_folder

if TYPE_CHECKING:
    from product1m.registry.acts import Measure
    from product1m.registry.compare import VersionComparison
    from product1m.registry.rules import ReviewRules
    from product1m.registry.versions import ModelVersion

_DEFAULTS = RegistrationConfig()

Candidate = Annotated[str, typer.Option(help="Registered model that the pipeline writes.")]
Champion = Annotated[str, typer.Option(help="Registered model that reviewers promote to.")]
Reason = Annotated[str, typer.Option(help="The reason, recorded with the version.")]
By = Annotated[
    str, typer.Option(help="Your name, recorded too; default: the MLflow user or your account.")
]
OverrideSample = Annotated[
    bool, typer.Option("--override-sample", help="Promote although it was trained on sample data.")
]
OverrideGate = Annotated[
    bool, typer.Option("--override-gate", help="Promote although its gate did not pass.")
]
OverrideRejection = Annotated[
    bool, typer.Option("--override-rejection", help="Promote although it was rejected.")
]
Rules = Annotated[
    str,
    typer.Option(help="Preset or YAML file with the gate's rules; by default the installed ones."),
]
Evaluate = Annotated[
    str, typer.Option(help="Data set to measure candidate and champion on again, here.")
]
SigningKey = Annotated[
    Path | None,
    typer.Option(envvar=signing.KEY, help="Private key that signs; by default `new-key`'s."),
]
Certificate = Annotated[
    Path | None, typer.Option(envvar=signing.CERTIFICATE, help="Certificate of the key.")
]
Chain = Annotated[
    list[Path] | None,
    typer.Option(envvar=signing.CHAIN, help="Certificate between it and the root; repeatable."),
]
CataloguePassword = Annotated[
    str,
    typer.Option(
        envvar="PRODUCT1M_CATALOGUE_PASSWORD",
        help="Password of the user product1m-catalogue, which refreshes the catalogue; without it "
        "this user is not created.",
    ),
]
ExperimentName = Annotated[str, typer.Option(help="Experiment that the pipeline logs to.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Reference = Annotated[
    str,
    typer.Argument(
        help="Number or alias of a candidate version, `champion`, or MODEL/VERSION of any model."
    ),
]

registry_app = typer.Typer(
    help="Registered versions: list, show, compare, promote, reject, roll back.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


@registry_app.command("list", epilog="Example: `product1m registry list`")
def list_(
    as_json: AsJson = False,
    candidate_model: Candidate = _DEFAULTS.candidate_model,
    champion_model: Champion = _DEFAULTS.champion_model,
) -> None:
    """List the versions of both models, newest first."""
    from product1m.registry.versions import list_versions

    models = ModelNames(candidate_model, champion_model)
    versions = [
        version
        for model in (candidate_model, champion_model)
        for version in list_versions(model, models)
    ]
    if as_json:
        _print_json([_summary(version) for version in versions])
        return
    for version in versions:
        typer.echo(_line(version))
    say_next(*after_list(versions, models))


@registry_app.command(epilog="Example: `product1m registry show challenger`")
def show(
    which: Reference,
    as_json: AsJson = False,
    candidate_model: Candidate = _DEFAULTS.candidate_model,
    champion_model: Champion = _DEFAULTS.champion_model,
) -> None:
    """Print a version's card and tags."""
    from product1m.registry.versions import find

    models = ModelNames(candidate_model, champion_model)
    version = find(which, models)
    if as_json:
        _print_json(_summary(version) | {"description": version.description})
        return
    typer.echo(f"{_line(version)}\n")
    print_markdown(version.description)
    typer.echo()
    for key, value in sorted(version.tags.items()):
        typer.echo(f"{key:<40} {value}")
    say_next(*after_show(version, models))


@registry_app.command(epilog="Example: `product1m registry compare champion challenger`")
def compare(
    first: Reference,
    second: Reference,
    as_json: AsJson = False,
    candidate_model: Candidate = _DEFAULTS.candidate_model,
    champion_model: Champion = _DEFAULTS.champion_model,
) -> None:
    """Compare two versions: metrics with intervals, configuration, data."""
    from product1m.registry import compare as registry_compare
    from product1m.registry.versions import find

    models = ModelNames(candidate_model, champion_model)
    comparison = registry_compare.compare(find(first, models), find(second, models))
    if as_json:
        _print_json(comparison.as_dict())
    else:
        _print_comparison(comparison)
        say_next(*after_show(comparison.second, models))


@registry_app.command(
    epilog='Example: `product1m registry promote --version 3 --reason "ahead on all slices"`'
)
def promote(
    version: Annotated[str, typer.Option(help="Number or alias of a candidate version.")],
    reason: Reason,
    override_sample: OverrideSample = False,
    override_gate: OverrideGate = False,
    override_rejection: OverrideRejection = False,
    rules: Rules = "",
    evaluate: Evaluate = "",
    key: SigningKey = None,
    certificate: Certificate = None,
    chain: Chain = None,
    by: By = "",
    as_json: AsJson = False,
    candidate_model: Candidate = _DEFAULTS.candidate_model,
    champion_model: Champion = _DEFAULTS.champion_model,
) -> None:
    """Make a candidate the champion: checked, copied, signed.

    Checks every file, evaluates the gate with your rules, and lets the model answer its input
    example in a process without credentials.
    """
    from product1m.registry import acts
    from product1m.registry.acts import Objection
    from product1m.registry.rules import read_rules

    flags: dict[Objection, bool] = {"sample": override_sample, "gate": override_gate}
    flags["rejection"] = override_rejection
    limits = read_rules(rules)
    review = acts.Review(
        reason,
        limits,
        signing.signer(key, certificate, tuple(chain or ())),
        by,
        overrides=[kind for kind, overridden in flags.items() if overridden],
        measure=_measure_on(evaluate, limits),
    )
    names = ModelNames(candidate_model, champion_model)
    _report(acts.promote(version, names, review), as_json, names)


def _measure_on(dataset: str, limits: "ReviewRules") -> "Measure | None":
    """How to measure on a data set; None without one."""
    if not dataset:
        return None
    from product1m.registry.candidate_files import CandidateFiles
    from product1m.registry.evidence import Evidence
    from product1m.registry.measuring import ReviewerData
    from product1m.serving.model_folder import ServingConfig
    from product1m.steps import ingestion
    from product1m.telemetry.environment import environment_set

    def measure(files: CandidateFiles, champion: "ModelVersion | None") -> Evidence:
        config = ServingConfig.read(files.model).ingestion  # photos as the model is served them
        with scratch_folder() as scratch:
            train, gallery, queries = (scratch / part for part in ("train", "gallery", "queries"))
            with environment_set({"MLFLOW_TRACKING_URI": ""}):  # a reviewer logs no run of a step
                ingestion.run(dataset, train, gallery, queries, config)
            data = ReviewerData.open(train, gallery, queries, limits.bootstrap)
            return data.measure(files, champion)

    return measure


@registry_app.command(
    "new-key", epilog="Example: `product1m registry new-key`, on the reviewer's machine"
)
def new_key(
    folder: Annotated[
        Path | None,
        typer.Option(
            help="Folder to write them to; default: where the other commands look for them."
        ),
    ] = None,
) -> None:
    """Create a pair of keys: the private one signs champions, the public one verifies them."""
    private, public = signing.new_key(folder or default_folder())
    typer.echo(
        f"{private}: private, signs champions (PRODUCT1M_KEY); only reviewers should read it"
    )
    typer.echo(f"{public}: public, for everyone who loads champions ({KEYS})")
    say_next(PROMOTE.format(CHALLENGER))


@registry_app.command(epilog='Example: `product1m registry rollback --reason "complaints"`')
def rollback(
    reason: Reason,
    to: Annotated[
        str, typer.Option(help="Version to restore; by default the previous champion.")
    ] = "",
    allow_unsigned: AllowUnsigned = False,
    by: By = "",
    as_json: AsJson = False,
    champion_model: Champion = _DEFAULTS.champion_model,
) -> None:
    """Make the previous champion the champion again, as a new version; nothing is deleted."""
    from product1m.registry import acts

    models = ModelNames(_DEFAULTS.candidate_model, champion_model)
    trust = Trust.from_options(allow_unsigned)
    _report(acts.rollback(reason, models, trust, by, to), as_json, models)


@registry_app.command(
    epilog='Example: `product1m registry reject --version 3 --reason "worse on gift sets"`'
)
def reject(
    version: Annotated[str, typer.Option(help="Number or alias of a candidate version.")],
    reason: Reason,
    by: By = "",
    as_json: AsJson = False,
    candidate_model: Candidate = _DEFAULTS.candidate_model,
    champion_model: Champion = _DEFAULTS.champion_model,
) -> None:
    """Reject a candidate: it then needs an override to be promoted."""
    from product1m.registry import acts

    models = ModelNames(candidate_model, champion_model)
    _report(acts.reject(version, reason, models, by), as_json, models)


@registry_app.command(
    "set-up-roles",
    epilog="Example: `PRODUCT1M_PIPELINE_PASSWORD=… PRODUCT1M_REVIEWER_PASSWORD=… "
    "product1m registry set-up-roles`, with the administrator's MLFLOW_TRACKING_USERNAME and "
    "MLFLOW_TRACKING_PASSWORD",
)
def set_up_roles(
    pipeline_password: Annotated[
        str,
        typer.Option(envvar="PRODUCT1M_PIPELINE_PASSWORD", help="Password of the pipeline's user."),
    ],
    reviewer_password: Annotated[
        str, typer.Option(envvar="PRODUCT1M_REVIEWER_PASSWORD", help="Password of the reviewer.")
    ],
    pipeline_user: Annotated[
        str, typer.Option(envvar="PRODUCT1M_PIPELINE_USER", help="User that registers candidates.")
    ] = PIPELINE,
    reviewer_user: Annotated[
        str,
        typer.Option(
            envvar="PRODUCT1M_REVIEWER_USER", help="User that promotes, rolls back and rejects."
        ),
    ] = REVIEWER,
    catalogue_password: CataloguePassword = "",
    experiment: ExperimentName = EXPERIMENT,
    as_json: AsJson = False,
    candidate_model: Candidate = _DEFAULTS.candidate_model,
    champion_model: Champion = _DEFAULTS.champion_model,
) -> None:
    """Create roles and users at an MLflow server with basic auth; safe to run again."""
    from product1m.registry import access

    roles = access.set_up_roles(
        ModelNames(candidate_model, champion_model),
        access.Identity(pipeline_user, pipeline_password),
        access.Identity(reviewer_user, reviewer_password),
        experiment,
        access.Identity(CATALOGUE, catalogue_password) if catalogue_password else None,
    )
    if as_json:
        _print_json(roles)
        return
    rows = [(role, *pair) for role, grants in roles.items() for pair in grants.items()]
    for role, resource, permission in rows:
        typer.echo(f"{role:<20} {permission:<6} {resource}")
    say_next(f"give the pods of runs the user {pipeline_user}: see manifests/README.md")


def _report(version: "ModelVersion", as_json: bool, models: ModelNames) -> None:
    if as_json:
        _print_json(_summary(version))
        return
    typer.echo(_line(version))
    rejected = ("product1m registry list shows what else there is",)
    say_next(*(rejected if version.model == models.candidate else after_show(version, models)))


def _print_json(values: Any) -> None:
    typer.echo(json.dumps(values, indent=2, ensure_ascii=False))


def _summary(version: "ModelVersion") -> dict[str, Any]:
    return {
        "model": version.model,
        "version": version.number,
        "created": version.created.isoformat(),
        "aliases": list(version.aliases),
        "rejection": dict(version.rejection) or None,
        "warning": version.warning or None,
        "tags": dict(version.tags),
    }


def _line(version: "ModelVersion") -> str:
    from product1m.registry.versions import DONE, STATE

    tags = version.tags
    marks = [
        "SAMPLE DATA" if tags.get("sample_data") != "false" else "",
        f"rejected by {version.rejection['by']}" if version.rejection else "",
        # Only versions of the champion model have a state; the usual one is not shown.
        tags.get(STATE, DONE).replace(DONE, ""),
        version.warning,
        " ".join(version.aliases),
    ]
    return (
        f"{version.model:<20} {version.number:>4}  {version.created:%Y-%m-%d %H:%M}  "
        f"gate {tags.get('gate', '?'):<12} strict mAP@10 {tags.get('strict_mAP_at_10', '?')}  "
        + "  ".join(mark for mark in marks if mark)
    )


def _print_comparison(comparison: "VersionComparison") -> None:
    from product1m.evaluation.statistics import MAIN_METRIC

    typer.echo(f"{'':<44} {comparison.first.title}  →  {comparison.second.title}")
    first, second = comparison.map_at_10
    gain = (
        comparison.gain.signed
        if comparison.gain
        else "measured on other queries or another gallery"
    )
    typer.echo(f"{MAIN_METRIC:<44} {first}  →  {second}   paired {gain}")
    tables: dict[str, Mapping[str, tuple[Any, Any]]] = {
        "metrics": comparison.metrics,
        "configuration": comparison.config,
        "data": comparison.data,
    }
    for name, rows in tables.items():
        typer.echo(f"\n{name}: {counted(len(rows), 'difference') if rows else 'no differences'}")
        for key, (before, after) in rows.items():
            typer.echo(f"  {key:<42} {_shown(before)}  →  {_shown(after)}")


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)

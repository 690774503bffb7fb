"""`product1m registry`: what a reviewer does with registered versions."""

from typing import TYPE_CHECKING, Annotated

import typer

from product1m.config import RegistrationConfig

if TYPE_CHECKING:
    from product1m.registry import Version

_DEFAULTS = RegistrationConfig()

Candidate = Annotated[str, typer.Option(help="Registered model the pipeline writes.")]
Champion = Annotated[str, typer.Option(help="Registered model a reviewer promotes to.")]
Reason = Annotated[str, typer.Option(help="Why; kept with the version.")]
By = Annotated[str, typer.Option(help="Who; the account's name unless given.")]

registry_app = typer.Typer(
    help="Registered versions: list, show, promote, roll back.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


@registry_app.command("list", epilog="Example: `product1m registry list`")
def list_() -> None:
    """List the versions of both models, newest first."""
    from product1m.registry import list_versions

    for model in (_DEFAULTS.candidate_model, _DEFAULTS.champion_model):
        for version in list_versions(model):
            typer.echo(_line(version))


@registry_app.command(epilog="Example: `product1m registry show challenger`")
def show(
    which: Annotated[str, typer.Argument(help="Number or alias of a version.")],
    model: Annotated[str, typer.Option(help="Registered model.")] = _DEFAULTS.candidate_model,
) -> None:
    """Print a version's card and tags."""
    from product1m import registry

    version = registry.show(model, which)
    typer.echo(f"{_line(version)}\n\n{version.description}\n")
    for key, value in sorted(version.tags.items()):
        typer.echo(f"{key:<40} {value}")


@registry_app.command(
    epilog='Example: `product1m registry promote challenger --reason "ahead on all slices"`'
)
def promote(
    which: Annotated[str, typer.Argument(help="Number or alias of a candidate version.")],
    reason: Reason,
    override: Annotated[
        str, typer.Option(help="Why to promote against the gate, or sample data; kept as well.")
    ] = "",
    by: By = "",
    candidate_model: Candidate = _DEFAULTS.candidate_model,
    champion_model: Champion = _DEFAULTS.champion_model,
) -> None:
    """Make a candidate the champion, after its gate and files were checked again."""
    from product1m import registry

    config = RegistrationConfig(candidate_model=candidate_model, champion_model=champion_model)
    typer.echo(_line(registry.promote(which, reason, config, by, override)))


@registry_app.command(epilog='Example: `product1m registry rollback --reason "complaints"`')
def rollback(
    reason: Reason,
    to: Annotated[str, typer.Option(help="Version; the previous champion unless given.")] = "",
    by: By = "",
    champion_model: Champion = _DEFAULTS.champion_model,
) -> None:
    """Make the previous champion the champion again; nothing is deleted."""
    from product1m import registry

    config = RegistrationConfig(champion_model=champion_model)
    typer.echo(_line(registry.rollback(reason, config, by, to)))


def _line(version: "Version") -> str:
    tags = version.tags
    return (
        f"{version.model:<20} {version.number:>4}  {version.created:%Y-%m-%d %H:%M}  "
        f"gate {tags.get('gate', '?'):<12} strict mAP@10 {tags.get('strict_mAP_at_10', '?')}  "
        f"{'SAMPLE DATA  ' if tags.get('sample_data') != 'false' else ''}"
        f"{' '.join(version.aliases)}"
    )

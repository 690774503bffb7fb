"""`product1m storage`: what storage holds and nobody needs."""

from typing import Annotated

import typer

from product1m.cli.next_steps import say_next
from product1m.cli.options import new_app
from product1m.errors import counted

storage_app = new_app("Shared storage of artifacts: remove objects that no artifact uses.")


@storage_app.callback()
def _main() -> None:
    """Shared storage of artifacts."""


@storage_app.command(
    epilog="Examples: `product1m storage gc s3://product1m/artifacts`, and then with `--yes`"
)
def gc(
    root: Annotated[str, typer.Argument(help="The address in `storage.root`.")],
    older_than_days: Annotated[
        float,
        typer.Option(help="Keep objects younger than this: a running step may need them."),
    ] = 14,
    named_in: Annotated[
        list[str] | None,
        typer.Option(
            help="Another folder or s3:// prefix with artifacts, such as the one where a cluster "
            "keeps those of its runs; their objects stay too. Repeatable."
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove them; otherwise only list.")] = False,
) -> None:
    """List objects that no artifact uses; remove them with --yes.

    Artifacts are never removed, so the cached results of a cluster stay complete.
    """
    from product1m.artifacts.cleaning import find_leftovers, remove_leftovers

    leftovers = find_leftovers(root, older_than_days, named_in or ())
    for file in leftovers.unnamed:
        typer.echo(f"{file.num_bytes:>14}  {file.name}")
    typer.echo(
        f"{counted(len(leftovers.unnamed), 'object')} that no artifact uses, "
        f"{leftovers.num_bytes / 1e6:.1f} MB; {leftovers.young} more are younger than "
        f"{older_than_days:g} days and stay, {leftovers.named} belong to artifacts"
    )
    if yes:
        removed = remove_leftovers(root, leftovers)
        typer.echo(f"{counted(removed, 'object')} removed")
    elif leftovers.unnamed:
        typer.echo("nothing was removed; add --yes to remove them")
        say_next(f"product1m storage gc {root} --yes")
    else:
        say_next(
            f"nothing to remove; to free more, delete artifacts below {root}, then run this again"
        )

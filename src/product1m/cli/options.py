"""What the commands of `product1m` and `pipelines` share: options, help, errors."""

import os
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from product1m.config import Preset
from product1m.errors import RANK_EXIT_CODE, ConfigError, Product1MError
from product1m.jobs.retries import may_pass

Overrides = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="SECTION.KEY=VALUE",
        help="Change a value, as in indexing.factory=Flat or seed=1; may be repeated.",
        default_factory=list,
        show_default=False,
    ),
]
PresetName = Annotated[Preset, typer.Option(help="`reference` is the paper's scale.")]


class FriendlyGroup(TyperGroup):
    """Prints errors that a user can fix without a traceback; exit code 2 for a ConfigError."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except Product1MError as error:
            typer.echo(f"error: {error}", err=True)
            code = 2 if isinstance(error, ConfigError) else 1
            if "TORCHELASTIC_RUN_ID" in os.environ and not may_pass(error):
                code = RANK_EXIT_CODE  # one of several training processes
            raise typer.Exit(code) from error


def new_app(help: str) -> typer.Typer:
    """A command group that prints help and errors the way this project does."""
    return typer.Typer(
        cls=FriendlyGroup,
        help=help,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
        add_completion=False,
    )

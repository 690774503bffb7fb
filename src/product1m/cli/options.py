"""What the commands of `product1m` and `pipelines` share: options, help, errors."""

import contextlib
import os
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from product1m import __version__
from product1m.config import Preset, RegistrationConfig
from product1m.data.limits import half_character_fault
from product1m.errors import RANK_EXIT_CODE, ConfigError, Product1MError, printable, redacted
from product1m.jobs.retries import is_temporary
from product1m.storage.disk import explain
from product1m.telemetry.provenance import git_revision

_ARGUMENTS = "product1m.arguments"
"""Key of a command's arguments in typer's context."""
BUG_EXIT_CODE = 70
"""Exit code for an error that no message explains (`EX_SOFTWARE` of sysexits.h)."""

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
PresetName = Annotated[
    Preset,
    typer.Option(
        help="`reference`: the paper's scale; `sample`: the drawn sample; `small`: your own photos."
    ),
]

CANDIDATE_MODEL = RegistrationConfig().candidate_model
CandidateModel = Annotated[
    str, typer.Option(help="Registered model whose versions nobody has signed yet.")
]
TrustedKey = Annotated[
    list[Path] | None,
    typer.Option(help="Public key of reviewers, instead of $PRODUCT1M_TRUSTED_KEY; repeatable."),
]
TrustedRoot = Annotated[
    list[Path] | None,
    typer.Option(help="Root certificate, instead of $PRODUCT1M_TRUSTED_ROOT; repeatable."),
]
AllowUnsigned = Annotated[
    bool, typer.Option("--allow-unsigned", help="Load the model even if no trusted key signed it.")
]


class FriendlyGroup(TyperGroup):
    """Prints errors without a traceback; exit code 2 for a ConfigError, 70 for a bug.

    A full disk, a missing permission or a locked database gets a message of its own. The
    traceback of any other error goes to a file, which the message names.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuse arguments that no log, list or database could hold."""
        for argument in args:
            if half_character_fault(argument):
                shown = printable(argument)
                typer.echo(
                    f"error: argument '{shown}': expected text in UTF-8; rename it", err=True
                )
                raise typer.Exit(2)
        ctx.meta[_ARGUMENTS] = list(args)
        parsed: list[str] = super().parse_args(ctx, args)
        return parsed

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except Product1MError as error:
            typer.echo(f"error: {printable(str(error))}", err=True)
            code = 2 if isinstance(error, ConfigError) else 1
            if "TORCHELASTIC_RUN_ID" in os.environ and not is_temporary(error):
                code = RANK_EXIT_CODE  # one of several training processes
            raise typer.Exit(code) from error
        except Exception as error:
            if type(error).__module__.startswith(("typer", "click")) or _is_broken_pipe(error):
                raise
            explained = explain(error, _written_places(ctx.meta[_ARGUMENTS]))
            typer.echo(f"error: {printable(str(explained or _bug(error)))}", err=True)
            raise typer.Exit(1 if explained else BUG_EXIT_CODE) from error


def _written_places(arguments: Sequence[str]) -> list[Path]:
    """Where a command may write: this folder, its standard output, whatever its arguments name."""
    places = [Path.cwd(), *(Path(word.rpartition("=")[2]) for word in arguments)]
    with contextlib.suppress(OSError):  # no terminal, no pipe
        if (output := Path("/proc/self/fd/1").readlink()).is_file():
            places.append(output)
    return places


def _is_broken_pipe(error: Exception) -> bool:
    """Whether the reader of the output has ended, as `head` does; typer ends quietly then."""
    return isinstance(error, BrokenPipeError)


def _bug(error: Exception) -> str:
    """A sentence for an error that should not happen; the traceback goes to a file."""
    what = redacted(f"{type(error).__name__}: {error}").partition("\n")[0]
    text = redacted("".join(traceback.format_exception(error)))
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="product1m-bug-", suffix=".log", delete=False, encoding="utf-8"
        ) as file:
            file.write(text)
        where = f"its traceback is in {file.name}"
    except OSError:
        typer.echo(text, err=True)
        where = "its traceback is above"
    return f"{what}; this is a bug of product1m, please report it: {where}"


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"product1m {__version__}, git revision {git_revision()}")
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option(
        "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
    ),
]


def new_app(help: str, add_completion: bool = False) -> typer.Typer:
    """A command group that prints help and errors the way this project does.

    With `add_completion` it can install completion for the shell; it must have a command's name.
    """
    return typer.Typer(
        cls=FriendlyGroup,
        help=help,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
        add_completion=add_completion,
    )

"""Tables and Markdown on a terminal."""

import re
import sys
from collections.abc import Iterable, Sequence

import typer

from product1m.errors import printable

_PICTURE, _LINK = r"!\[[^\]]*\]\([^)]*\)", r"\[([^\]]+)\]\([^)]*\)"


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table; without a terminal, 160 characters wide."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns)
    for row in rows:
        table.add_row(*(Text(printable(cell, kept="")) for cell in row))
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def print_markdown(text: str) -> None:
    """Print Markdown: as it is, or on a terminal laid out, without pictures and links.

    The links of a version's card work in MLflow's page alone.
    """
    if not sys.stdout.isatty():
        typer.echo(text)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    readable = re.sub(
        _LINK, r"\1", re.sub(_PICTURE, "*(see the picture on its page in MLflow)*", text)
    )
    Console().print(Markdown(readable, hyperlinks=False))

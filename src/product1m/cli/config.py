"""`product1m config`: the settings in effect, and their documentation."""

import sys

import typer

from product1m.cli.next_steps import say_next
from product1m.cli.options import Overrides, PresetName, new_app

config_app = new_app("Show the configuration in effect, or its documentation.")


@config_app.command(epilog="Example: `product1m config show --preset sample --set seed=1`")
def show(overrides: Overrides, preset: PresetName = "sample") -> None:
    """Print every key: its value, default, origin, meaning and source."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from product1m.config.docs import settings, shown

    table = Table()
    for name in ("key", "value", "default", "set by", "meaning", "source"):
        table.add_column(name, no_wrap=name in ("key", "set by"))
    for setting in settings(preset, overrides):
        table.add_row(
            f"{setting.section}.{setting.key}",
            Text(shown(setting.value)),
            Text(shown(setting.default)),
            setting.origin,
            setting.meaning,
            setting.source,
        )
    width = None if sys.stdout.isatty() else 220
    Console(width=width).print(table)
    say_next(f"change a value: python -m pipelines run --preset {preset} --set seed=1 …")


@config_app.command(epilog="Example: `product1m config docs > docs/configuration.md`")
def docs() -> None:
    """Print the documentation of the configuration as Markdown."""
    from product1m.config.docs import configuration_page

    typer.echo(configuration_page(), nl=False)

"""A run's story as a person reads it."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines.local.figures import method_table
from pipelines.local.story import Story
from pipelines.local.summary import WIDTH

_COLORS = {
    "SUCCEEDED": "green",
    "CACHED": "cyan",
    "FAILED": "red",
    "KILLED": "red",
    "CANCELED": "yellow",
    "STOPPED": "yellow",
}
_LABEL = 12
"""Width of the column of labels."""


def print_story(story: Story) -> None:
    """Print what happened, where it stopped and why, the last lines, what to do next."""
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"[bold]{escape(story.title)}[/bold]  {_colored(story.state)}{_times(story)}")
    console.print(_task_table(story))
    if story.figures:
        wide = console if console.is_terminal else Console(width=WIDTH)
        wide.print(method_table(story.figures, wide.width))
    if story.failed:
        console.print(f"{'stopped in':<{_LABEL}} [bold]{escape(story.failed)}[/bold]")
    _print_block(console, "because", story.why)
    _print_block(console, "note", story.notes)
    for name, value in story.results.items():
        _print_block(console, name, [value])
    if story.tail:
        console.print("end of its log:")
        for line in story.tail:
            console.print(f"  {line}", markup=False, style="dim")
    if story.whole_log:
        _print_block(console, "whole log", [story.whole_log])
    for name, link in story.links.items():
        _print_block(console, name, [link])
    if story.advice:
        _print_block(console, "next", [story.advice])


def _task_table(story: Story) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("task", "state", "seconds"):
        table.add_column(name, justify="right" if name == "seconds" else "left")
    for task in story.tasks:
        seconds = f"{task.seconds:.0f}" if task.seconds else ""
        table.add_row(task.name, _colored(task.state), seconds)
    return table


def _print_block(console: Console, label: str, reasons: list[str]) -> None:
    """The reasons below each other, the label before the first."""
    lines = [line for reason in reasons for line in reason.splitlines()]
    for number, line in enumerate(lines):
        console.print(f"{'' if number else label:<{_LABEL}} {escape(line)}")


def _times(story: Story) -> str:
    times = f", started {story.started:%Y-%m-%d %H:%M} UTC" if story.started else ""
    if story.started and story.ended:
        times += f", took {(story.ended - story.started).total_seconds():.0f} s"
    return times


def _colored(state: str) -> str:
    color = _COLORS.get(state)
    return f"[{color}]{state}[/{color}]" if color else state

"""Send a message when a run has ended, if the environment names a webhook."""

from pipelines.local.story import Story
from pipelines.local.webhook import notify

MAX_REASON = 1000
"""Characters of a cause in a message (ours)."""
_MARKS = {"SUCCEEDED": ":white_check_mark:", "CANCELED": ":warning:"}


def notify_end(story: Story) -> None:
    """Report the end of a run: the version that waits for review, or the cause and what to do."""
    notify(end_message(story))


def end_message(story: Story) -> str:
    """The text about a run that ended."""
    minutes = ""
    if story.started and story.ended:
        minutes = f" after {(story.ended - story.started).total_seconds() / 60:.0f} min"
    mark = _MARKS.get(story.state, ":x:")
    where = f" in {story.failed}" if story.failed else ""
    lines = [f"{mark} {story.title}: {story.state}{where}{minutes}"]
    if story.why:
        lines.append(story.why[0][:MAX_REASON])
    lines += [f"{name}: {value}" for name, value in story.results.items()]
    if "model" in story.results:
        lines.append("The candidate waits for review.")
    if story.advice:
        lines.append(f"Next: {story.advice}")
    lines += [f"{name}: {link}" for name, link in story.links.items()]
    return "\n".join(lines)

"""What to do next, printed at the end of a command."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from product1m.registry.roles import CHAMPION

if TYPE_CHECKING:
    from product1m.registry.roles import ModelNames
    from product1m.registry.versions import ModelVersion

PROMOTE = 'product1m registry promote --version {} --reason "…"'
OPEN_PAGE = "product1m ui {}"


def say_next(*steps: str) -> None:
    """Print what to do next, on stderr: stdout is for the command's own result."""
    sys.stdout.flush()  # what was printed comes first, also in a pipe
    for number, step in enumerate(steps):
        typer.echo(f"{'next: ' if number == 0 else '      '}{step}", err=True)


def after_extraction(images: Path, features: Path) -> str:
    """The command that reads the features of these photos."""
    from product1m.artifacts.folder import part_of

    commands = {
        "train": f"product1m capture-pretraining {features} SCENE_FEATURES capture",
        "scenes": f"product1m capture-pretraining TRAIN_FEATURES {features} capture",
        "gallery": f"product1m indexing {features} CAPTURE index",
    }
    return commands.get(
        part_of(images), f"product1m evaluation {features} CAPTURE INDEX {images} GALLERY out"
    )


def after_evaluation(results: Path, inputs: str, preset: str) -> Sequence[str]:
    """Where the report is, and how to register what it measured."""
    return (
        f"open {(results / 'report.html').absolute()} in a browser",
        f"product1m registration {inputs} registered --preset {preset}",
    )


def after_search(output: Path | None, model: str, *, allow_unsigned: bool) -> Sequence[str]:
    """Where the answers can be seen with their pictures."""
    options = f"--model {model}{' --allow-unsigned' if allow_unsigned else ''}"
    page = f"open {output.absolute()}" if output else "add --output answers.html for the pictures"
    return page, f"product1m serve {options} answers more photos on a page"


def after_registration(registered: Path) -> Sequence[str]:
    """How to review the version that a step registered."""
    from product1m.artifacts.folder import open_artifact

    number = open_artifact(registered, "registration").manifest.details["version"]
    return f"product1m registry show {number}", OPEN_PAGE.format(number)


def after_list(versions: "Sequence[ModelVersion]", models: "ModelNames") -> Sequence[str]:
    """How to look at the newest candidate, or how to get one."""
    newest = next((v for v in versions if v.model == models.candidate), None)
    if newest is None:
        return ("python -m pipelines run --dataset DIR --output build/mine registers a candidate",)
    return f"product1m registry show {newest.number}", OPEN_PAGE.format(newest.number)


def after_show(version: "ModelVersion", models: "ModelNames") -> Sequence[str]:
    """What a reviewer does with a version."""
    if version.model == models.candidate:
        return (
            f"{OPEN_PAGE.format(version.number)} opens its page in MLflow",
            f"product1m serve --review, or {version.promote_command}",
        )
    return after_champion(version)


def after_champion(version: "ModelVersion") -> Sequence[str]:
    """What to do with a promoted version."""
    if CHAMPION not in version.aliases:
        return (f'product1m registry rollback --to {version.number} --reason "…" restores it',)
    return (
        "product1m serve answers photos with it",
        f"product1m catalogue refresh DATASET build/catalogue --model models:/{version.model}"
        f"@{CHAMPION} --register builds the catalogue with it",
    )


def after_status(catalogue: str, index: Path | None, state: Mapping[str, Any]) -> Sequence[str]:
    """An edit if there are no items, a refresh if the index lacks something, else a search."""
    if not state["items"]:
        return (f"product1m catalogue add {catalogue} --from DATASET",)
    if index is None or state["not_indexed_yet"] or state["indexed_but_removed"]:
        return (f"product1m catalogue refresh {catalogue} {index or 'build/catalogue'}",)
    return (f'product1m search PHOTO --title "…" --catalogue {index}',)


def after_erasure(
    catalogue: str, index: Path | None, model: str, *, has_holders: bool
) -> Sequence[str]:
    """How the erased items leave what is served, and what else holds them."""
    refresh = (
        f"product1m catalogue refresh {catalogue} {index or 'build/catalogue'} --model {model}"
    )
    served = f"{refresh} --register takes them out of what is served"
    left = "then delete the artifacts above, and run product1m storage gc on their storage"
    return (served, left) if has_holders else (served,)


def after_refresh(dataset: str, index: Path, model: str, *, registered: bool) -> Sequence[str]:
    """How to try a catalogue that passed its checks, and how to serve it."""
    if registered:
        return ("product1m serve answers from it; a running server follows within a minute",)
    return (
        f'product1m search PHOTO --title "…" --model {model} --catalogue {index}',
        f"product1m catalogue refresh {dataset} {index} --model {model} --register serves it",
    )

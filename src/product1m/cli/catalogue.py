"""`product1m catalogue`: edit the list of what can be found, refresh the index that is served."""

import getpass
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from product1m.cli.next_steps import after_erasure, after_refresh, after_status, say_next
from product1m.cli.options import (
    CANDIDATE_MODEL,
    AllowUnsigned,
    Overrides,
    PresetName,
    TrustedKey,
    TrustedRoot,
)
from product1m.config import CatalogueConfig, load_config
from product1m.errors import DatasetError, counted
from product1m.registry.roles import CHAMPION_URI
from product1m.serving.signatures import Trust

if TYPE_CHECKING:
    from product1m.catalogue.store import CatalogueStore, Edit, NewItem

Catalogue = Annotated[str, typer.Argument(help="Folder or s3:// prefix of the catalogue.")]
Ids = Annotated[list[str], typer.Argument(help="Ids of items.")]
Reason = Annotated[str, typer.Option(help="The reason, recorded in the log.")]
By = Annotated[str, typer.Option(help="Your name, recorded too; default: your account.")]
Index = Annotated[
    Path | None,
    typer.Option(help="Refresh the index in this folder after the edit; created if missing."),
]
Model = Annotated[
    str, typer.Option(help="Promoted model that makes the vectors: a registered one or its folder.")
]

catalogue_app = typer.Typer(
    help="The catalogue: add and remove items, and refresh its index.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


@catalogue_app.command(
    epilog='Example: `product1m catalogue add shop --id rose-100 --photo rose.jpg --title "rose '
    'cream 100 ml" --label "rose cream"`'
)
def add(
    catalogue: Catalogue,
    overrides: Overrides,
    photo: Annotated[Path | None, typer.Option(help="Photo of one product.")] = None,
    item: Annotated[str, typer.Option("--id", help="Id of the item; replaced if it exists.")] = "",
    title: Annotated[str, typer.Option(help="The seller's title of the item.")] = "",
    label: Annotated[str, typer.Option(help="Name of its product; default: the id.")] = "",
    source: Annotated[
        str,
        typer.Option("--from", help="Add every gallery item of this data set instead."),
    ] = "",
    reason: Reason = "",
    by: By = "",
    index: Index = None,
    model: Model = CHAMPION_URI,
) -> None:
    """Add an item, or replace the one with its id; or add a whole gallery list."""
    from product1m.catalogue.new_items import from_dataset, from_photo

    if bool(source) == bool(photo):
        raise DatasetError("expected --photo with --id and --title, or --from DATASET")
    if photo and not (item and title):
        raise DatasetError(f"--photo {photo}: expected --id and --title with it")
    limits = load_config("reference", overrides).ingestion
    new: Iterator[NewItem] = (
        from_dataset(source, limits)
        if photo is None
        else iter([from_photo(photo, item, title, label, limits)])
    )
    edit = _store(catalogue).add(new, by or getpass.getuser(), reason)
    typer.echo(f"edit {edit.number}: {counted(len(edit.items), 'item')} added or replaced")
    _refresh_after(catalogue, index, model)


@catalogue_app.command(epilog="Example: `product1m catalogue remove shop rose-100 --reason sold`")
def remove(
    catalogue: Catalogue,
    items: Ids,
    reason: Reason = "",
    by: By = "",
    index: Index = None,
    model: Model = CHAMPION_URI,
) -> None:
    """Remove items from the list; they can be added again."""
    edit = _store(catalogue).remove(items, by or getpass.getuser(), reason)
    typer.echo(f"edit {edit.number}: {counted(len(edit.items), 'item')} removed")
    _refresh_after(catalogue, index, model)


@catalogue_app.command(
    epilog='Example: `product1m catalogue erase shop rose-100 --reason "demand of the brand" '
    "--cache build/work/catalogue --look-in build/sample`"
)
def erase(
    catalogue: Catalogue,
    items: Ids,
    reason: Reason,
    overrides: Overrides,
    by: By = "",
    cache: Annotated[
        list[str] | None,
        typer.Option(help="Cache of features and vectors to clean too; repeatable."),
    ] = None,
    look_in: Annotated[
        list[str] | None,
        typer.Option(help="Folder or s3:// prefix to search for their photos; repeatable."),
    ] = None,
    versions: Annotated[
        str, typer.Option(help="Registered model of catalogues whose versions to search.")
    ] = "",
    index: Index = None,
    model: Model = CHAMPION_URI,
) -> None:
    """Erase items for good: photos, lines, vectors; no step reads their photos again.

    Prints the earlier artifacts that still contain them: delete these, or make them again.
    """
    from product1m.catalogue import erasure

    limits = load_config("reference", overrides).ingestion
    erased = erasure.erase_items(_store(catalogue), items, by or getpass.getuser(), reason, limits)
    typer.echo(f"edit {erased.edit.number}: {counted(len(erased.edit.items), 'item')} erased")
    for place in cache or ():
        for address in erasure.forget_vectors(place, erased.photos):
            typer.echo(f"removed {address}")
    if index:
        _refresh(catalogue, index, model, Trust.from_options(), CatalogueConfig(), "")
    places = [*(look_in or ()), *([str(index)] if index else ())]
    holding = erasure.holders(places, erased.photos, versions)
    for holder in holding:
        typer.echo(f"still contains their photos: {holder}")
    typer.echo(f"artifacts with their photos: {len(holding)}, searched: {len(places) or 'none'}")
    say_next(*after_erasure(catalogue, index, model, has_holders=bool(holding)))


@catalogue_app.command(epilog="Example: `product1m catalogue log shop --last 5`")
def log(
    catalogue: Catalogue,
    last: Annotated[int, typer.Option(help="Newest edits to show; 0 shows all.", min=0)] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show who edited what, when and why, oldest first."""
    store = _store(catalogue)
    store.lines()  # takes note of what was edited by hand
    edits = store.edits(last)
    if as_json:
        typer.echo(json.dumps([edit.__dict__ for edit in edits], ensure_ascii=False))
        return
    for edit in edits:
        typer.echo(_line(edit))
    if not edits:
        typer.echo(f"{catalogue}: no edits yet", err=True)
    say_next(f"product1m catalogue status {catalogue}")


@catalogue_app.command(epilog="Example: `product1m catalogue status shop --index build/catalogue`")
def status(
    catalogue: Catalogue,
    index: Annotated[
        Path | None, typer.Option(help="Compare with the index in this folder.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show how many items the list has, and which of them the index lacks."""
    from product1m.catalogue.status import status_of

    if index and not index.exists():
        raise DatasetError(
            f"{index}: no index yet; `product1m catalogue refresh {catalogue} {index}` builds it"
        )
    state = status_of(_store(catalogue), index)
    if as_json:
        typer.echo(json.dumps(state))
        return
    for name, value in state.items():
        typer.echo(f"{name.replace('_', ' '):<22} {value}")
    say_next(*after_status(catalogue, index, state))


@catalogue_app.command(
    epilog="Example: `product1m catalogue refresh shop build/catalogue --model "
    "models:/product1m@champion`"
)
def refresh(
    dataset: Annotated[str, typer.Argument(help="Catalogue or data set: folder or s3:// prefix.")],
    index: Annotated[Path, typer.Argument(help="Folder of the index, refreshed or created.")],
    overrides: Overrides,
    preset: PresetName = "sample",
    model: Model = CHAMPION_URI,
    register: Annotated[
        bool, typer.Option("--register", help="Register the index and move `live` to it.")
    ] = False,
    trusted_key: TrustedKey = None,
    trusted_root: TrustedRoot = None,
    allow_unsigned: AllowUnsigned = False,
) -> None:
    """Bring an index up to date with the list; only new and changed photos are read.

    Exit code 1 if the new index does not pass its checks; the folder contains it anyway.
    """
    config = load_config(preset, overrides)
    trust = Trust.from_options(allow_unsigned, trusted_key or (), trusted_root or ())
    _refresh(dataset, index, model, trust, config.catalogue, config.storage.root)
    if register:
        from product1m.catalogue.registering import register_catalogue

        number = register_catalogue(index, config.catalogue.catalogue_model, model)
        typer.echo(f"live: {config.catalogue.catalogue_model} version {number}")
    say_next(*after_refresh(dataset, index, model, registered=register))


def _store(address: str) -> "CatalogueStore":
    from product1m.catalogue.store import CatalogueStore

    return CatalogueStore(address)


def _refresh_after(catalogue: str, index: Path | None, model: str) -> None:
    if index is None:
        say_next(f"product1m catalogue refresh {catalogue} build/catalogue --model {model}")
        return
    _refresh(catalogue, index, model, Trust.from_options(), CatalogueConfig(), "")
    say_next(*after_refresh(catalogue, index, model, registered=False))


def _refresh(
    dataset: str, index: Path, model: str, trust: Trust, config: CatalogueConfig, root: str
) -> None:
    from product1m.steps import catalogue as step

    _store(dataset).lines()  # completes an edit that was killed
    with _fetched(model, trust) as folder:
        metrics = step.run(dataset, folder, index, config, index, root)
    typer.echo(
        f"{index}: {metrics['num_items']:.0f} items, {metrics['added']:.0f} added, "
        f"{metrics['removed']:.0f} removed, {metrics['changed']:.0f} changed; recall@100 "
        f"{metrics['recall@100']:.4f}"
    )
    step.require_passed(index)


@contextmanager
def _fetched(model: str, trust: Trust) -> Iterator[Path]:
    """The folder of a verified model."""
    from product1m.artifacts.model_parts import model_in
    from product1m.registry.loading import fetch_model
    from product1m.storage.scratch import scratch_folder

    with scratch_folder() as scratch:
        fetched = fetch_model(model, CANDIDATE_MODEL, trust, scratch)
        yield model_in(fetched)


def _line(edit: "Edit") -> str:
    shown = ", ".join(edit.items[:3]) + (" …" if len(edit.items) > 3 else "")
    words: Sequence[str] = (edit.at, edit.by, edit.act, counted(len(edit.items), "item"), shown)
    return f"{edit.number:>6}  " + "  ".join(word for word in (*words, edit.reason) if word)

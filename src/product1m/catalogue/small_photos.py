"""Write the small photos of a catalogue: new items get new ones, the others are copied."""

from pathlib import Path
from typing import Any

import pandas as pd

from product1m.artifacts.folder import Artifact, open_artifact, write_artifact
from product1m.artifacts.model_parts import THUMBNAILS
from product1m.config import RegistrationConfig
from product1m.data.items import ItemTable, ItemWriter, read_photo
from product1m.serving.thumbnails import PART, STEP, add_thumbnail


def write_small_photos(
    rows: pd.DataFrame, read: Artifact, before: Artifact | None, folder: Path, side_px: int
) -> None:
    """Write `thumbnails/` of a catalogue.

    Args:
        rows: of all its items.
        read: the items whose photos were read now, an artifact of ingestion.
        before: the catalogue that has the others.
        folder: of the catalogue that is written.
        side_px: longer side; 0 writes nothing.
    """
    if not side_px:
        return
    new = ItemTable(read)
    new_places = {item: place for place, item in enumerate(new.rows["id"])}
    old = _small_photos(before)
    # One pass over the rows, because looking one up in a table costs more than copying its photo.
    known: dict[Any, Any] = {row.id: row for row in old.rows.itertuples()} if old else {}
    config = RegistrationConfig(thumbnail_side_px=side_px)
    with (
        write_artifact(folder / THUMBNAILS, STEP, config, part=PART) as writer,
        ItemWriter(writer.folder, prefix=PART) as thumbnails,
    ):
        for row in rows.to_dict("records"):
            if row["id"] in new_places:
                add_thumbnail(thumbnails, row, new.photo(new_places[row["id"]]), side_px)
            elif old is not None and (place := known.get(row["id"])):
                shard = old.artifact.shard(place.shard)
                thumbnails.add(
                    row["id"],
                    read_photo(shard, place.offset, place.num_bytes, place.sha256),
                    (place.width, place.height),
                    caption=row["caption"],
                    labels=list(row["labels"]),
                )


def _small_photos(before: Artifact | None) -> ItemTable | None:
    if before is None or not (before.folder / THUMBNAILS).is_dir():
        return None
    return ItemTable(open_artifact(before.folder / THUMBNAILS, STEP, PART))

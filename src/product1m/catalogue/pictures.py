"""The small photos of a catalogue: those of new items are made, the others are copied."""

from pathlib import Path

import pandas as pd

from product1m.artifacts.folder import Artifact, open_artifact, write_artifact
from product1m.config import RegistrationConfig
from product1m.data.items import ItemTable, ItemWriter
from product1m.serving.model_folder import THUMBNAILS
from product1m.serving.thumbnails import PART, STEP, add_thumbnail


def write_pictures(
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
    old, old_places = _small_photos(before)
    config = RegistrationConfig(thumbnail_side_px=side_px)
    with (
        write_artifact(folder / THUMBNAILS, STEP, config, part=PART) as writer,
        ItemWriter(writer.folder, prefix=PART) as thumbnails,
    ):
        for row in rows.to_dict("records"):
            if row["id"] in new_places:
                add_thumbnail(thumbnails, row, new.photo(new_places[row["id"]]), side_px)
            elif old is not None and row["id"] in old_places:
                place = old_places[row["id"]]
                known = old.rows.iloc[place]
                thumbnails.add(
                    row["id"],
                    old.encoded(place),
                    (int(known["width"]), int(known["height"])),
                    caption=row["caption"],
                    labels=list(row["labels"]),
                )


def _small_photos(before: Artifact | None) -> tuple[ItemTable | None, dict[str, int]]:
    if before is None or not (before.folder / THUMBNAILS).is_dir():
        return None, {}
    table = ItemTable(open_artifact(before.folder / THUMBNAILS, STEP, PART))
    return table, {item: place for place, item in enumerate(table.rows["id"])}

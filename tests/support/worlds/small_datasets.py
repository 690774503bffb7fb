"""Data set folders with a few photos, for tests of the code around the steps."""

import json
from pathlib import Path
from typing import Any

from tests.support.worlds.photo_files import encoded, picture


def small_dataset(folder: Path, num_items: int = 3) -> Path:
    """Write a JSON Lines data set with `num_items` photos per list."""
    (folder / "images").mkdir(parents=True)
    for number, role in enumerate(("train", "gallery", "queries")):
        lines = []
        for item in range(num_items):
            name = f"{role}-{item}"
            photo = encoded(picture(seed=100 * number + item))
            (folder / "images" / f"{name}.jpg").write_bytes(photo)
            line: dict[str, Any] = {
                "id": name,
                "caption": f"face cream {item}",
                "image": f"images/{name}.jpg",
            }
            if role != "train":
                line["labels"] = [f"class-{item}"]
            lines.append(json.dumps(line))
        (folder / f"{role}.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    return folder

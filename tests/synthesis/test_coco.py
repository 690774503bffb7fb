"""Annotations in COCO's format, one file a shard of photos."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from product1m.data.items import ItemWriter
from product1m.data.photos import encode_jpeg
from product1m.synthesis.coco import write_coco


def test_every_shard_has_annotations_of_its_own(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (600, 600, 3), np.uint8)
    encoded = encode_jpeg(noise)  # two of them exceed a MiB
    with ItemWriter(tmp_path, "scenes", shard_mib=1) as items:
        for number in range(5):
            items.add(f"scene-{number:06d}", encoded, (600, 600), caption="")
    lines = [json.dumps([{"source_id": f"{n}-{k}"} for k in range(n)]) for n in range(5)]
    (tmp_path / "annotations").write_text("\n".join(lines) + "\n")
    write_coco(tmp_path, tmp_path / "annotations")
    shards = pd.read_parquet(tmp_path / "items.parquet")["shard"].tolist()
    assert len(set(shards)) > 1
    ids = []
    for shard in sorted(set(shards)):
        content = json.loads((tmp_path / shard).with_suffix(".coco.json").read_text("utf-8"))
        scenes = [number for number in range(5) if shards[number] == shard]
        assert [image["id"] for image in content["images"]] == scenes
        expected = [(n, f"{n}-{k}") for n in scenes for k in range(n)]
        found = [(a["image_id"], a["source_id"]) for a in content["annotations"]]
        assert found == expected
        ids += [annotation["id"] for annotation in content["annotations"]]
    assert ids == list(range(1, 11))

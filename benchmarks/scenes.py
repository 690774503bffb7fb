"""What the scenes of the drawn sample show, by truth: the step itself knows no labels.

    python benchmarks/scenes.py build/sample/pipeline/RUN/background-synthesis/scenes --seed 0

Prints the share of photos with several products among the sources, and the shares of scenes with a
product twice and with one brand; and what train and held-out scenes share.
"""

import argparse
import json
from pathlib import Path

import pandas as pd

from product1m.artifacts.folder import open_artifact
from product1m.data.items import ItemTable
from product1m.data.regions import INSTANCES
from product1m.sample.drawn.plan import SampleSizes, plan_rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenes", type=Path, help="artifact of background_synthesis")
    parser.add_argument("--seed", type=int, default=0, help="seed that the sample was drawn with")
    arguments = parser.parse_args()
    print(json.dumps(figures(arguments.scenes, arguments.seed), indent=2))


def figures(scenes: Path, seed: int) -> dict[str, float]:
    artifact = open_artifact(scenes, "background_synthesis")
    rows = {row.id: row for row in plan_rows(SampleSizes(), seed)["train"]}
    placed = pd.read_parquet(artifact.file(INSTANCES))[["scene", "source_id"]]
    placed["split"] = ItemTable(artifact).rows["split"].to_numpy()[placed["scene"]]
    placed["photo"] = placed["source_id"].map(lambda item: str(rows[item].photo_seed))
    placed["product"] = placed["source_id"].map(lambda item: rows[item].products[0].label)
    placed["brand"] = placed["source_id"].map(lambda item: rows[item].products[0].brand.name)
    sources = placed.drop_duplicates("source_id")
    wrong = sources["source_id"].map(lambda item: len(rows[item].products) > 1)
    by_scene = placed.groupby("scene")
    several = by_scene.filter(lambda scene: len(scene) > 1).groupby("scene")
    train, held_out = (placed[placed["split"] == split] for split in ("train", "held_out"))
    return {
        "sources": len(sources),
        "sources_with_several_products": round(float(wrong.mean()), 4),
        "scenes_with_several_products": several.ngroups,
        "products_a_scene_with_several": round(float(several.size().mean()), 2),
        "scenes_that_show_a_product_twice": round(
            float((several["product"].nunique() < several.size()).mean()), 4
        ),
        "scenes_of_one_brand": round(float((several["brand"].nunique() == 1).mean()), 4),
        "shared_source_photos": len({*train["photo"]} & {*held_out["photo"]}),
        "shared_products": len({*train["product"]} & {*held_out["product"]}),
    }


if __name__ == "__main__":
    main()

"""The first task of a run here: nothing behind it runs while the data are as they were."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from kfp import dsl

import components
from pipelines.local.code import KeyedByCode
from pipelines.local.kfp_local import run_graph
from product1m.artifacts.folder import open_artifact
from product1m.config import load_config
from tests.support.worlds.small_datasets import small_dataset

INGESTION: dict[str, Any] = load_config("sample").ingestion.model_dump(mode="json")


class Items(NamedTuple):
    dataset_digest: str
    gallery: dsl.Dataset


@dsl.pipeline(name="items")
def graph(dataset_uri: str) -> Items:
    state = components.data_state(
        dataset_uri=dataset_uri, backgrounds_uri="", stated_dataset="", stated_backgrounds=""
    ).set_caching_options(False)
    items = components.ingestion(
        dataset_uri=dataset_uri,
        dataset_digest=state.outputs["dataset_digest"],
        config=INGESTION,
        storage={},
    )
    for task in (state, items):
        KeyedByCode().apply(task)
    return Items(state.outputs["dataset_digest"], items.outputs["gallery"])


def test_a_run_over_unchanged_data_is_one_task_and_a_changed_photo_runs_what_reads_it(
    tmp_path: Path,
) -> None:
    data = small_dataset(tmp_path / "data")

    def run() -> tuple[dict[str, bool], str, str]:
        steps, outputs = run_graph(graph, {"dataset_uri": str(data)}, tmp_path / "out", {}, "store")
        gallery = open_artifact(Path(outputs["gallery"].path), "ingestion", "gallery")
        cached = {step: timing.cached for step, timing in steps.items()}
        return cached, str(outputs["dataset_digest"]), gallery.digest

    first = run()
    assert first[0] == {"data_state": False, "ingestion": False}
    second = run()
    assert second == ({"data_state": False, "ingestion": True}, *first[1:])
    photo = data / "images" / "gallery-0.jpg"
    photo.write_bytes((data / "images" / "gallery-1.jpg").read_bytes())
    third = run()
    assert third[0] == {"data_state": False, "ingestion": False}
    assert len({first[1], third[1]}) == len({first[2], third[2]}) == 2
    log = (tmp_path / "out" / "run.log").read_text()
    assert "data_state: read in" in log
    assert json.dumps(third[1])[1:13] in log

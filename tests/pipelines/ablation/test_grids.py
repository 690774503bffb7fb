"""The cells of an ablation: what each changes, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
from kfp import dsl
from kfp.local.cache import LocalCache
from typer.testing import CliRunner

from pipelines.__main__ import app
from pipelines.ablation.graph import cell_pipeline
from pipelines.ablation.grids import FULL, Cell, make_grid
from pipelines.cli.ablate import parse_seeds
from pipelines.graph.data import data_parameters
from pipelines.graph.training import training_pipeline
from pipelines.local.kfp_local import run_graph
from product1m.config import Config, load_config
from product1m.errors import ConfigError
from tests.support.worlds.small_datasets import small_dataset

SAMPLE = load_config("sample")


def changed_keys(before: Config, after: Config) -> dict[str, Any]:
    """`section.key` to its new value, for every key that differs."""
    old, new = before.model_dump(), after.model_dump()
    return {
        f"{section}.{key}": new[section][key]
        for section, values in old.items()
        for key, value in values.items()
        if new[section][key] != value
    }


@pytest.mark.parametrize("name", ["pretext", "layers", "proposals", "fusion"])
@pytest.mark.parametrize("preset", ["sample", "reference"])
def test_a_cell_changes_the_keys_it_states_and_the_seed_of_pretraining(
    name: str, preset: Any
) -> None:
    base = load_config(preset)
    grid = make_grid(name, base)
    assert grid.cells[0].name == FULL
    assert grid.cells[0].overrides == {}
    assert len({cell.name for cell in grid.cells}) == len(grid.cells) > 4
    for cell in grid.cells:
        changed = changed_keys(base, cell.config(base, seed=7))
        assert changed.pop("capture_pretraining.seed") == 7
        assert changed.keys() == cell.overrides.keys()
        assert cell.overrides or cell.method != "shipped" or cell.name == FULL


def test_the_parts_of_finding_a_product_are_left_out_without_training_anything() -> None:
    read = SAMPLE.model_copy(
        update={"feature_extraction": SAMPLE.feature_extraction.model_copy(update={"ocr": "boxes"})}
    )
    cells = {
        cell.name: (cell.overrides, cell.method) for cell in make_grid("retrieval", read).cells
    }
    assert cells == {
        "full": ({}, "shipped"),
        "without-boxes": ({}, "shipped_whole_photo"),
        "without-ocr": (
            {"evaluation.fused_blocks": ["joint", "streams", "image", "text"]},
            "shipped",
        ),
        "without-points": ({"evaluation.points_weights": [0.0]}, "shipped"),
        "without-pattern": ({"evaluation.pattern_weights": [0.0]}, "shipped"),
        "without-neighbors": ({"evaluation.neighbors_weights": [0.0]}, "shipped"),
        "without-claims": ({"evaluation.claims_weight": 0.0}, "shipped"),
    }
    assert "without-ocr" not in {cell.name for cell in make_grid("retrieval", SAMPLE).cells}


def test_the_block_of_crops_has_cells_where_products_are_encoded() -> None:
    changes = {"crop_encoder": "backbone", "crop_adaptation": True}
    encoded = SAMPLE.feature_extraction.model_copy(update=changes)
    config = SAMPLE.model_copy(update={"feature_extraction": encoded})
    for grid, expected in (
        ("retrieval", {"without-crop", "without-adaptation"}),
        ("fusion", {"crop-only", "without-crop"}),
    ):
        added = {cell.name for cell in make_grid(grid, config).cells}
        added -= {cell.name for cell in make_grid(grid, SAMPLE).cells}
        assert added == expected


def test_every_pretext_task_is_left_out_once_and_one_that_is_off_is_added() -> None:
    cells = {cell.name: cell.overrides for cell in make_grid("pretext", SAMPLE).cells}
    section = "capture_pretraining."
    assert cells == {
        "full": {},
        "without-masked-language": {section + "masked_language_weight": 0},
        "without-masked-region": {section + "masked_region_weight": 0},
        "with-matching": {section + "image_text_matching_weight": 1},
        "without-contrast": {section + "contrast_weight": 0},
        "without-scene-contrast": {section + "scene_contrast_weight": 0},
        "without-input-skip": {section + "input_skip": False},
    }


def test_capture_as_published_has_none_of_the_additions_and_the_released_contrast() -> None:
    for preset in ("sample", "reference"):
        grid = make_grid("published", load_config(preset))
        cells = {cell.name: cell for cell in grid.cells}
        pretraining = cells["as-published"].config(load_config(preset), 0).capture_pretraining
        assert pretraining.scene_contrast_weight == 0
        assert not pretraining.input_skip
        assert pretraining.contrast == "released"
        assert pretraining.relu_projection
        assert not pretraining.learn_temperature
        assert list(cells) == ["full", "as-published", "image-text"]
        assert grid.measures == ("shipped", "joint", "joint_streams")


def test_the_last_task_is_not_left_out() -> None:
    off = ("masked_language", "masked_region", "scene_contrast")
    base = load_config("sample", [f"capture_pretraining.{task}_weight=0" for task in off])
    grid = make_grid("pretext", base)
    assert "without-contrast" not in [cell.name for cell in grid.cells]
    assert grid.left_out == {"without-contrast": "no pretext task would be left"}


def test_depths_are_relative_to_the_configuration() -> None:
    base = load_config("sample", ["capture_pretraining.cross_layers=0"])
    grid = make_grid("layers", base)
    cells = {cell.name: cell for cell in grid.cells}
    assert cells["shallower"].meaning == "1/1/0/1 layers"
    assert cells["deeper"].config(base, 0).capture_pretraining.joint_layers == 4
    assert cells["without-streams"].config(base, 0).capture_pretraining.visual_layers == 0
    assert grid.left_out == {"without-cross": "the full model is already configured like this"}


def test_proposals_depart_from_those_in_use() -> None:
    base = load_config("sample", ["feature_extraction.proposals=grabcut"])
    cells = {cell.name: cell.overrides for cell in make_grid("proposals", base).cells}
    assert cells["trained-rpn"] == {"feature_extraction.proposals": "rpn"}
    assert "grabcut" not in cells


def test_only_cells_that_fuse_other_blocks_need_an_evaluation_of_their_own() -> None:
    cells = make_grid("fusion", SAMPLE).cells
    own = {cell.name for cell in cells if cell.overrides}
    assert own == {
        "joint-streams",
        "without-joint",
        "without-streams",
        "without-image",
        "without-text",
    }
    assert {key for cell in cells for key in cell.overrides} == {"evaluation.fused_blocks"}


def test_the_block_of_what_is_printed_has_cells_where_packs_are_read() -> None:
    read = SAMPLE.feature_extraction.model_copy(update={"ocr": "boxes"})
    config = SAMPLE.model_copy(update={"feature_extraction": read})
    added = {cell.name for cell in make_grid("fusion", config).cells}
    added -= {cell.name for cell in make_grid("fusion", SAMPLE).cells}
    assert added == {"ocr-only", "without-ocr", "image-text-ocr"}


def test_chosen_cells_come_with_the_full_model() -> None:
    grid = make_grid("layers", SAMPLE, ["deeper"])
    assert [cell.name for cell in grid.cells] == ["full", "deeper"]


def test_an_unknown_grid_or_cell_is_named_with_the_nearest_and_all_known() -> None:
    with pytest.raises(ConfigError, match=r"unknown grid 'layer'; did you mean 'layers'\? Grids"):
        make_grid("layer", SAMPLE)
    with pytest.raises(ConfigError, match=r"cell 'deep' of the grid layers; did you mean 'deeper'"):
        make_grid("layers", SAMPLE, ["deep"])


def test_seeds_stand_between_commas_or_blanks() -> None:
    assert parse_seeds("0,1, 2") == (0, 1, 2)
    assert parse_seeds("3 5") == (3, 5)
    for wrong in ("", "1,1", "a", "-1", "1.5"):
        with pytest.raises(ConfigError, match="different whole numbers separated by commas"):
            parse_seeds(wrong)


def test_what_is_wrong_stops_the_command_before_any_work(tmp_path: Path) -> None:
    data = small_dataset(tmp_path / "data")

    def refused(*arguments: str) -> str:
        asked = ["ablate", "--dataset", str(data), "--output", str(tmp_path / "out"), *arguments]
        result = CliRunner().invoke(app, asked)
        assert result.exit_code == 2
        assert not (tmp_path / "out").exists()
        return result.output

    assert "unknown grid 'pretexts'" in refused("--grid", "pretexts")
    assert "unknown cell 'x'" in refused("--grid", "pretext", "--cells", "x")
    assert "--seeds 'one'" in refused("--grid", "pretext", "--seeds", "one")
    assert "heads do not divide" in refused(
        "--grid", "pretext", "--set", "capture_pretraining.text_heads=7"
    )


def test_a_cell_asks_the_cache_what_a_plain_run_asks_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = data_parameters(str(small_dataset(tmp_path / "data")))
    asked: list[str] = []
    results = {
        name: dsl.Artifact(name=name, uri=str(tmp_path / name))
        for name in (
            *("train", "gallery", "queries", "scenes", "checkpoint", "features", "index"),
            *("evaluation", "report", "metrics", "registration"),
        )
    }

    def answer(_cache: LocalCache, key: str) -> dict[str, Any]:
        asked.append(key)
        return results

    monkeypatch.setattr(LocalCache, "get", answer)

    def keys(pipeline: Any) -> set[str]:
        asked.clear()
        run_graph(pipeline, arguments, tmp_path, {}, "cache")
        return set(asked)

    plain = keys(training_pipeline(SAMPLE))
    assert len(plain) == 11
    assert len(plain - keys(cell_pipeline(SAMPLE))) == 1, "all but the registration"
    cell = Cell("x", "", {"capture_pretraining.contrast_weight": 0.0})
    changed = keys(cell_pipeline(cell.config(SAMPLE, 0)))
    assert len(changed) == 10
    assert len(changed - plain) == 1, "pretraining alone"

"""The configuration: presets, overrides, messages about mistakes, the generated page."""

from typing import get_args

import pytest
from pydantic import ValidationError

from product1m.config import (
    STEPS,
    Config,
    EvaluationConfig,
    IngestionConfig,
    Preset,
    RpnTrainingConfig,
    load_config,
    parse_config,
    preset_values,
    section_model,
)
from product1m.config.docs import allowed_values, configuration_page, settings, split_source
from product1m.errors import ConfigError
from tests.support.paths import ROOT


def test_the_reference_preset_is_the_defaults_at_the_scale_of_the_paper() -> None:
    reference = load_config("reference")
    assert reference == load_config() == Config()
    assert preset_values("reference") == {}
    assert reference.rpn_training.backbone == "resnet101"
    assert reference.capture_pretraining.hidden_dim == 768
    assert reference.indexing.factory == "IVF1024,SQ8"
    assert reference.registration.sample_data is False


def test_the_sample_preset_changes_sizes_and_passes_and_keeps_the_rest() -> None:
    sample = load_config("sample")
    assert sample.background_synthesis.num_scenes == 720
    assert sample.rpn_training.backbone == "tf_efficientnet_lite0"
    assert sample.capture_pretraining.hidden_dim == 128
    assert sample.capture_pretraining.num_epochs == 20
    assert sample.indexing.factory == "Flat"
    # Not in the preset's file, so the same as in the reference:
    assert sample.background_synthesis.max_products == 5
    assert sample.capture_pretraining.contrast == "symmetric"
    assert sample.evaluation.fusion_weights == (0.0, 0.25, 0.5, 0.75, 1.0)


def test_no_preset_decides_what_a_sample_is_because_the_data_do() -> None:
    for preset in get_args(Preset):
        assert load_config(preset).registration.sample_data is False


def test_the_small_preset_is_the_sample_with_sizes_that_follow_the_data() -> None:
    small, sample = load_config("small"), load_config("sample")
    assert small.background_synthesis.scenes_per_cutout == 3
    assert small.rpn_training.min_steps == 100
    assert small.capture_pretraining.min_steps == 200
    changed = {"scenes_per_cutout", "min_steps", "max_leaked_photos"}
    for section in ("background_synthesis", "rpn_training", "capture_pretraining", "registration"):
        own, other = getattr(small, section).model_dump(), getattr(sample, section).model_dump()
        assert {key for key in own if own[key] != other[key]} <= changed
    assert small.indexing == sample.indexing
    assert small.registration.max_leaked_photos == 0


def test_an_override_wins_over_the_preset() -> None:
    config = load_config("sample", ["indexing.factory=HNSW32", "rpn_training.num_epochs=1"])
    assert config.indexing.factory == "HNSW32"
    assert config.rpn_training.num_epochs == 1


def test_numbers_can_be_typed_as_people_type_them() -> None:
    config = load_config("sample", ["rpn_training.learning_rate=1e-3", "evaluation.depth=50"])
    assert config.rpn_training.learning_rate == 0.001
    assert config.evaluation.depth == 50


def test_lists_can_be_typed_as_yaml() -> None:
    config = load_config("sample", ["evaluation.fusion_weights=[0, 1]"])
    assert config.evaluation.fusion_weights == (0.0, 1.0)


def test_one_seed_seeds_every_section() -> None:
    config = load_config("sample", ["seed=7"])
    assert {getattr(config, step).seed for step in STEPS} == {7}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("indexing.factroy=Flat", "unknown indexing key 'factroy'; did you mean 'factory'"),
        ("indexin.factory=Flat", "unknown section 'indexin'; did you mean 'indexing'"),
        ("factory=Flat", "expected section.key with a section of ingestion"),
        ("indexing.factory", "expected section.key=value"),
        ("indexing.probes=0", "indexing.probes: .*greater than 0, got 0"),
        ("ingestion.dev_share=1.5", "ingestion.dev_share: .*less than or equal to 1, got 1.5"),
        ("rpn_training.precision=fp8", "rpn_training.precision: .*'float32' or 'bf16', got 'fp8'"),
        ("evaluation.fusion_weights=[1", "the value is not YAML"),
        ("rpn_training.num_epochs=1.5", "rpn_training.num_epochs: .*fractional part, got 1.5"),
    ],
)
def test_a_mistyped_override_is_explained(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config("sample", [override])


def test_an_unknown_preset_is_explained() -> None:
    with pytest.raises(ConfigError, match="unknown preset 'sampel'; did you mean 'sample'"):
        load_config("sampel")  # type: ignore[arg-type]


def test_an_unknown_key_of_a_section_is_explained_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match=r"rpn_training\.epochs: unknown key; .*'num_epochs'"):
        parse_config({"rpn_training": {"epochs": 3}})
    with pytest.raises(ConfigError, match="rpn_trainin: unknown key; did you mean 'rpn_training'"):
        parse_config({"rpn_trainin": {}})


def test_all_mistakes_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({"indexing": {"probes": 0}, "ingestion": {"num_workers": "many"}})
    assert "indexing.probes" in str(caught.value)
    assert "ingestion.num_workers" in str(caught.value)


def test_whole_floats_are_fine_integers_because_kfp_sends_them() -> None:
    as_kfp_sends = {
        step: {
            key: float(value) if type(value) is int else value
            for key, value in section.model_dump(mode="json").items()
        }
        for step, section in ((step, getattr(load_config("sample"), step)) for step in STEPS)
    }
    assert parse_config(as_kfp_sends) == load_config("sample")


def test_heads_that_do_not_divide_a_width_are_refused() -> None:
    with pytest.raises(ConfigError, match="text_heads: 5 heads do not divide a width of 128"):
        load_config("sample", ["capture_pretraining.text_heads=5"])


def test_a_section_without_keys_has_the_defaults() -> None:
    assert parse_config({"indexing": None}) == Config()


def test_an_unknown_section_is_explained() -> None:
    with pytest.raises(ConfigError, match="indexin: not a section; expected one of ingestion"):
        section_model("indexin")


def test_a_section_cannot_be_changed_after_it_was_made() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_config("sample").indexing.factory = "Flat"  # type: ignore[misc]


def test_every_key_says_what_it_means_and_where_its_default_comes_from() -> None:
    for setting in settings("reference"):
        assert setting.meaning, f"{setting.section}.{setting.key} has no docstring"
        assert setting.source, f"{setting.section}.{setting.key}: docstring ends with no source"


def test_a_docstring_is_split_into_meaning_and_source() -> None:
    assert split_source("Passes over\n    the items (ours).") == ("Passes over the items", "ours")
    assert split_source("Width (released code, there swapped).") == (
        "Width",
        "released code, there swapped",
    )
    assert split_source("Weight (paper); 0 switches it off.") == (
        "Weight; 0 switches it off",
        "paper",
    )
    assert split_source("No source.") == ("No source.", "")


def test_a_setting_says_who_set_it() -> None:
    origins = {
        f"{s.section}.{s.key}": s.origin
        for s in settings("sample", ["indexing.text_dim=64", "seed=1"])
    }
    assert origins["indexing.text_dim"] == "--set"
    assert origins["ingestion.seed"] == "--set"
    assert origins["rpn_training.backbone"] == "preset sample"
    assert origins["evaluation.depth"] == "default"


def test_types_and_ranges_are_shown_for_people() -> None:
    fields = IngestionConfig.model_fields
    assert allowed_values(fields["dev_share"]) == "float, ≥ 0, ≤ 1"
    assert allowed_values(fields["num_workers"]) == "int, > 0"
    precision = RpnTrainingConfig.model_fields["precision"]
    assert allowed_values(precision) == "`float32` or `bf16`"
    weights = EvaluationConfig.model_fields["fusion_weights"]
    assert allowed_values(weights) == "list of float"


def test_the_configuration_page_is_up_to_date() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    assert page == configuration_page(), "run `make docs`"

"""A reviewer's acts: promote, override, roll back, in a real MLflow."""

from collections.abc import Iterator

import pytest
from registered_model import MlflowStore, run_registration
from tiny_world import TinyArtifacts
from typer.testing import CliRunner

from product1m import registry
from product1m.cli import app
from product1m.config import RegistrationConfig
from product1m.errors import RegistryError

pytestmark = [
    pytest.mark.usefixtures("store"),
    pytest.mark.filterwarnings("ignore::UserWarning"),  # mlflow warns about itself
]

STRICT = RegistrationConfig(min_baseline_lead=0.9, sample_data=True, champion_model="compared")


def names(model: str) -> RegistrationConfig:
    """A champion model of the test's own."""
    return RegistrationConfig(champion_model=model)


@pytest.fixture(scope="module")
def sample(
    made: TinyArtifacts,
    registered: registry.Version,
    mlflow_store: MlflowStore,
    tmp_path_factory: pytest.TempPathFactory,
) -> registry.Version:
    """A second candidate: of sample data, failing its gate, with the first one as champion."""
    with mlflow_store.active():
        registry.promote(registered.number, "to compare with", names("compared"), by="ann")
        return run_registration(made, tmp_path_factory.mktemp("second") / "out", STRICT)


def test_a_promoted_version_becomes_champion_with_who_when_and_why(
    registered: registry.Version,
) -> None:
    config = names("promoted")
    assert registry.current_champion(config) is None
    first = registry.promote(registered.number, " ahead everywhere ", config, by="ann")
    assert (first.model, first.number, first.aliases) == ("promoted", "1", ("champion",))
    assert first.tags["promoted_by"] == "ann"
    assert first.tags["promotion_reason"] == "ahead everywhere"
    assert first.tags["promoted_from"] == f"product1m-candidate/{registered.number}"
    assert first.tags["previous_champion"] == "none"
    assert first.tags["promoted_at"].endswith("Z")
    assert "override" not in first.tags
    assert first.description == registered.description
    second = registry.promote(registered.number, "again", config, by="bob")
    assert second.tags["previous_champion"] == "1"
    assert registry.show("promoted", "1").aliases == ()
    champion = registry.current_champion(config)
    assert champion is not None
    assert champion.version == "2"
    assert champion.evidence is not None
    assert len(champion.evidence.ap) == 12  # the test queries


def test_a_promoted_model_answers_under_its_alias(registered: registry.Version) -> None:
    registry.promote(registered.number, "to ask it", names("asked"), by="ann")
    model = registry.quiet_mlflow().pyfunc.load_model("models:/asked@champion")
    assert len(model.predict(model.input_example)) == 1


def test_a_promotion_needs_a_reason_and_a_version_that_exists(
    registered: registry.Version,
) -> None:
    with pytest.raises(RegistryError, match="a reason is needed"):
        registry.promote(registered.number, "  ", names("unreasoned"))
    with pytest.raises(RegistryError, match=r"product1m-candidate: no version '99'; it has"):
        registry.promote("99", "why", names("unreasoned"))
    assert registry.list_versions("unreasoned") == []


def test_a_sample_version_says_so_in_capitals_and_is_compared_with_the_champion(
    sample: registry.Version,
) -> None:
    assert sample.description.startswith("**SAMPLE DATA: THIS VERSION WAS TRAINED ON A SAMPLE")
    assert "**Gate: FAILED** against champion version 1" in sample.description
    assert "| pass | not behind the champion | interval above -0.010 | +0.000 [" in (
        sample.description
    )
    assert "Different from champion version 1: no artifact; git " in sample.description
    assert sample.tags["sample_data"] == "true"
    assert sample.tags["gate"] == "failed"
    assert sample.tags["gate_rules_not_passed"].startswith("lead over raw image features, ")
    assert "challenger" in sample.aliases


def test_a_sample_version_or_a_failed_gate_needs_an_override_that_is_recorded(
    sample: registry.Version,
) -> None:
    config = names("overridden")
    with pytest.raises(RegistryError) as refused:
        registry.promote(sample.number, "why not", config, by="ann")
    message = str(refused.value)
    assert "it was trained on sample data" in message
    assert "lead over raw image features: expected interval above +0.900, found" in message
    assert "give a reason as override" in message
    assert registry.list_versions("overridden") == []
    version = registry.promote(sample.number, "why not", config, by="ann", override="a rehearsal")
    assert version.tags["override"] == "a rehearsal"
    assert version.tags["overridden"].startswith("it was trained on sample data; lead over ")
    assert version.tags["promotion_gate"] == "failed"


@pytest.fixture
def changed(
    request: pytest.FixtureRequest, registered: registry.Version, store: MlflowStore
) -> Iterator[str]:
    """A file of the registered version with one byte changed; mended afterwards."""
    path = store.files(registered) / request.param
    content = path.read_bytes()
    path.write_bytes(content[:-2] + b" " + content[-1:])
    yield path.name
    path.write_bytes(content)


@pytest.mark.parametrize(
    "changed",
    [
        "serving.py",
        "artifacts/model/serving.json",
        "artifacts/model/index/index.faiss",
        "artifacts/model/capture/model.safetensors",
    ],
    indirect=True,
)
def test_a_version_whose_files_were_changed_is_not_promoted(
    registered: registry.Version, changed: str
) -> None:
    with pytest.raises(RegistryError, match=f"{changed}.*(damaged|changed since)"):
        registry.promote(registered.number, "looks good", names("tampered"), by="ann")
    assert registry.list_versions("tampered") == []


def test_evidence_that_was_changed_is_noticed_too(
    registered: registry.Version, store: MlflowStore
) -> None:
    path = store.files(registered) / "evidence.json"
    content = path.read_text("utf-8")
    path.write_text(content.replace('"index_recall": ', '"was": 1, "index_recall": '), "utf-8")
    try:
        with pytest.raises(RegistryError, match=r"evidence\.json"):
            registry.promote(registered.number, "looks good", names("tampered"), by="ann")
    finally:
        path.write_text(content, "utf-8")


def test_rolling_back_restores_the_previous_champion_and_deletes_nothing(
    registered: registry.Version,
) -> None:
    config = names("rolled")
    with pytest.raises(RegistryError, match="rolled: no version 'champion'; it has none"):
        registry.rollback("complaints", config)
    registry.promote(registered.number, "first", config, by="ann")
    with pytest.raises(RegistryError, match="rolled version 1 has no previous champion"):
        registry.rollback("complaints", config)
    registry.promote(registered.number, "second", config, by="ann")
    restored = registry.rollback("complaints", config, by="bob")
    assert (restored.number, restored.aliases) == ("1", ("champion",))
    assert [version.number for version in registry.list_versions("rolled")] == ["2", "1"]
    for number in ("1", "2"):
        tags = registry.show("rolled", number).tags
        (record,) = [value for key, value in tags.items() if key.startswith("rollback.")]
        assert record == '{"by": "bob", "reason": "complaints", "from": "2", "to": "1"}'
    forth = registry.rollback("it was the network", config, by="bob", to="2")
    assert forth.aliases == ("champion",)
    with pytest.raises(RegistryError, match="rolled version 2 is the champion already"):
        registry.rollback("once more", config, to="2")


def test_the_command_line_lists_shows_promotes_and_rolls_back(
    registered: registry.Version,
) -> None:
    def product1m(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["registry", *arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    assert "product1m-candidate" in product1m("list")
    assert registered.description.splitlines()[0] in product1m("show", registered.number)
    to = ["--champion-model", "by-hand"]
    for reason in ("first", "second"):
        shown = product1m("promote", registered.number, "--reason", reason, "--by", "ann", *to)
    assert shown.split()[:2] == ["by-hand", "2"]
    assert product1m("rollback", "--reason", "complaints", *to).split()[:2] == ["by-hand", "1"]

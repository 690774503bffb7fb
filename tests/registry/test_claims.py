"""A promotion killed between two of its requests: the next one finishes it or gives it up."""

from typing import Any

import mlflow
import pytest

from product1m.errors import RegistryError
from product1m.registry import claims
from product1m.registry.claims import Source, claim, read_standing
from product1m.registry.roles import ModelNames
from product1m.registry.versions import ModelVersion, list_versions, warning
from product1m.telemetry.processes import this_process

pytestmark = [
    pytest.mark.usefixtures("store"),
    pytest.mark.filterwarnings("ignore::UserWarning"),  # mlflow warns about itself
]
REQUESTS = (
    "create_model_version",
    "update_model_version",
    "set_registered_model_alias",
    "set_model_version_tag",
)
RECORD = {"act": "promotion", "by": "ann", "reason": "good"}


class Killed(BaseException):
    """Nothing catches it, as nothing catches a kill."""


def promoted(models: ModelNames, registered: ModelVersion, **record: str) -> ModelVersion:
    uri = f"models:/{registered.model_id}"
    source = Source(uri, registered.run_id, registered.model_id, "its page", {})
    return claim(source, models, read_standing(models), RECORD | record)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("request_", REQUESTS)
def test_whoever_comes_after_a_killed_promotion_ends_it(
    registered: ModelVersion, monkeypatch: pytest.MonkeyPatch, request_: str, after: bool
) -> None:
    models = ModelNames("product1m-candidate", f"killed-{request_}-{after}")
    first = promoted(models, registered)
    real = getattr(mlflow.MlflowClient, request_)

    def killed(client: Any, *values: Any, **named: Any) -> Any:
        if after:
            real(client, *values, **named)
        raise Killed

    ended = f"{this_process().split()[0]} 4194304999 0.00"
    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, request_, killed)
        # The process that is named in the claim is gone afterwards.
        patch.setattr(claims, "this_process", lambda: ended)
        with pytest.raises(Killed):
            promoted(models, registered, reason="killed")
    moved = [v for v in list_versions(models.champion) if "champion" in v.aliases]
    champion = read_standing(models)
    versions = list_versions(models.champion)
    states = [version.tags["champion_state"] for version in versions]
    assert "claimed" not in states
    assert champion.number == moved[0].number  # finished or given up, the alias decides
    assert (champion.number == first.number) == (states[0] != "done" or len(states) == 1)
    assert not any(warning(version, versions) for version in versions)
    third = promoted(models, registered, reason="again")
    assert third.aliases == ("champion",)
    assert third.tags["champion_state"] == "done"
    assert not any(warning(v, list_versions(models.champion)) for v in [third])


def test_a_claim_of_a_process_that_is_alive_is_waited_for(
    registered: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = ModelNames("product1m-candidate", "alive")

    def stopped(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "update_model_version", stopped)
        with pytest.raises(Killed):
            promoted(models, registered)
    with pytest.raises(RegistryError, match="alive version 1 is being made champion by ann since"):
        promoted(models, registered)

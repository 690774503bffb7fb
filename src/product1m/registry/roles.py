"""Who may do what at an MLflow server with basic auth: a pipeline, reviewers, nobody else.

In MLflow the right to make a version of a registered model is the right to move its aliases. Duties
are apart because there are two models: the pipeline may edit only the candidate's, a reviewer only
the champion's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from product1m.config import RegistrationConfig
from product1m.errors import RegistryError
from product1m.registry.versions import ensure_model, quiet_mlflow, talking_to_registry

PIPELINE, REVIEWER = "product1m-pipeline", "product1m-reviewer"
"""Names of the two roles, and of their users unless others are given."""
WORKSPACE = "default"
EXPERIMENT = "product1m-training"
"""Where the pipeline logs, unless another name is given."""


@dataclass(frozen=True)
class Identity:
    """A user to make."""

    name: str
    password: str


Grants = Mapping[tuple[str, str], str]
"""Resource type and id to permission."""


def set_up_roles(
    config: RegistrationConfig, pipeline: Identity, reviewer: Identity, experiment: str = EXPERIMENT
) -> dict[str, dict[str, str]]:
    """Make models, experiment, roles and users; run again it mends what differs.

    A user that exists gets the password given here. To be called as the server's administrator.

    Returns:
        Role to resource to permission, as they stand afterwards.
    """
    with talking_to_registry("setting up roles") as client:
        for name in (config.candidate_model, config.champion_model):
            ensure_model(client, name)
        found = client.get_experiment_by_name(experiment)
        experiment_id = found.experiment_id if found else client.create_experiment(experiment)
        roles: dict[str, tuple[Identity, Grants]] = {
            PIPELINE: (
                pipeline,
                {
                    ("experiment", experiment_id): "EDIT",
                    ("registered_model", config.candidate_model): "EDIT",
                    ("registered_model", config.champion_model): "READ",
                },
            ),
            REVIEWER: (
                reviewer,
                {
                    ("experiment", experiment_id): "READ",
                    ("registered_model", config.candidate_model): "READ",
                    ("registered_model", config.champion_model): "EDIT",
                },
            ),
        }
        for role, (identity, grants) in roles.items():
            role_id = _ensure_role(role, grants)
            _ensure_user(identity)
            if role_id not in _role_ids(identity.name):
                _call("roles/assign", "POST", username=identity.name, role_id=role_id)
    return {
        role: {f"{kind} {name}": permission for (kind, name), permission in grants.items()}
        for role, (_, grants) in roles.items()
    }


def _ensure_role(name: str, grants: Grants) -> int:
    known = {role["name"]: role["id"] for role in _call("roles/list", workspace=WORKSPACE)["roles"]}
    if name not in known:
        made = _call("roles/create", "POST", workspace=WORKSPACE, name=name)
        known[name] = made["role"]["id"]
    role_id = int(known[name])
    missing = dict(grants)
    for grant in _call("roles/permissions/list", role_id=role_id)["role_permissions"]:
        resource = (grant["resource_type"], grant["resource_pattern"])
        if missing.get(resource) == grant["permission"]:
            del missing[resource]
        else:
            _call("roles/permissions/remove", "DELETE", role_permission_id=grant["id"])
    for (kind, pattern), permission in missing.items():
        _call(
            "roles/permissions/add",
            "POST",
            role_id=role_id,
            resource_type=kind,
            resource_pattern=pattern,
            permission=permission,
        )
    return role_id


def _ensure_user(identity: Identity) -> None:
    known = {user["username"] for user in _call("users/list", version=2)["users"]}
    if identity.name in known:
        act, method = "users/update-password", "PATCH"
    else:
        act, method = "users/create", "POST"
    _call(act, method, version=2, username=identity.name, password=identity.password)


def _role_ids(user: str) -> set[int]:
    return {int(role["id"]) for role in _call("users/roles/list", username=user)["roles"]}


def _call(act: str, method: str = "GET", version: int = 3, **values: Any) -> dict[str, Any]:
    """One request of MLflow's auth API; its own client comes only with the whole server."""
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request, verify_rest_response

    uri = quiet_mlflow().get_tracking_uri()
    if not uri.startswith("http"):
        raise RegistryError(
            f"MLFLOW_TRACKING_URI is {uri}; roles exist at an MLflow server started with "
            "--app-name basic-auth, name its address"
        )
    endpoint = f"/api/{version}.0/mlflow/{act}"
    given = {"params": values} if method == "GET" else {"json": values}
    response = http_request(get_default_host_creds(uri), endpoint, method, **given)
    if response.status_code == 404:
        raise RegistryError(
            f"{uri}: has no {endpoint}; roles need MLflow 3.17 started with --app-name basic-auth"
        )
    answer: dict[str, Any] = verify_rest_response(response, endpoint).json()
    return answer

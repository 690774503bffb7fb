"""Set up the roles at an MLflow server with basic auth: pipeline, reviewers and refreshes."""

from dataclasses import dataclass
from typing import Any

from product1m.errors import RegistryError
from product1m.registry.roles import (
    CATALOGUE,
    CATALOGUES,
    CHAMPIONS,
    EXPERIMENT,
    PIPELINE,
    REVIEWER,
    Grants,
    ModelNames,
    grants,
)
from product1m.registry.versions import ensure_model
from product1m.telemetry.mlflow_client import registry_mlflow, talking_to_registry

WORKSPACE = "default"
FORBIDDEN, ANSWER_S = 403, 60
_CLOSE_CREATION = (
    "start it with --enable-workspaces (MLFLOW_ENABLE_WORKSPACES=true), so that only the "
    "administrator creates models, experiments and secrets"
)


@dataclass(frozen=True)
class Identity:
    """A user to create."""

    name: str
    password: str


def set_up_roles(
    models: ModelNames,
    pipeline: Identity,
    reviewer: Identity,
    experiment: str = EXPERIMENT,
    catalogue: Identity | None = None,
) -> dict[str, dict[str, str]]:
    """Create models, experiment, roles and users; run again, it corrects what differs.

    A user that exists gets the password given here. Without `catalogue` its role exists and no user
    has it. Call it as the server's administrator.

    Returns:
        Role to resource to permission, as they are afterwards.

    Raises RegistryError, after everything was set up, if the server lets every account create
    models and experiments, or read what nobody gave it.
    """
    with talking_to_registry("setting up roles") as client:
        for name in (models.candidate, models.champion, models.catalogue):
            ensure_model(client, name)
        by_role = grants(
            models,
            *(_experiment_id(client, name) for name in (experiment, CHAMPIONS, CATALOGUES)),
        )
        for role, identity in ((PIPELINE, pipeline), (REVIEWER, reviewer), (CATALOGUE, catalogue)):
            role_id = _ensure_role(role, by_role[role])
            if identity is None:
                continue
            ensure_user(identity)
            if role_id not in _role_ids(identity.name):
                call_auth_api("roles/assign", "POST", username=identity.name, role_id=role_id)
    _require_closed(pipeline)
    return {
        role: {f"{kind} {name}": permission for (kind, name), permission in allowed.items()}
        for role, allowed in by_role.items()
    }


def _experiment_id(client: Any, name: str) -> str:
    known = client.get_experiment_by_name(name)
    return str(known.experiment_id if known else client.create_experiment(name))


def _require_closed(identity: Identity) -> None:
    """Try, as the pipeline's user, what the server must refuse."""
    import requests

    server = registry_mlflow().get_tracking_uri().rstrip("/")
    account = (identity.name, identity.password)
    # No model can have this name: an account that may create models gets an error about the name,
    # an account that may not is refused.
    creation = requests.post(
        f"{server}/api/2.0/mlflow/registered-models/create",
        json={"name": ""}, auth=account, timeout=ANSWER_S,
    )  # fmt: skip
    default = requests.get(
        f"{server}/api/2.0/mlflow/experiments/get",
        params={"experiment_id": "0"}, auth=account, timeout=ANSWER_S,
    )  # fmt: skip
    for answer, setting in (
        (creation, _CLOSE_CREATION),
        (default, "set default_permission = NO_PERMISSIONS in its basic_auth.ini"),
    ):
        if answer.status_code != FORBIDDEN:
            raise RegistryError(
                f"{server}: the roles are set up, but every account may do more than its role says "
                f"(expected status {FORBIDDEN}, got {answer.status_code}); {setting}, and run this "
                "again"
            )


def _ensure_role(name: str, grants: Grants) -> int:
    known = {
        role["name"]: role["id"]
        for role in call_auth_api("roles/list", workspace=WORKSPACE)["roles"]
    }
    if name not in known:
        made = call_auth_api("roles/create", "POST", workspace=WORKSPACE, name=name)
        known[name] = made["role"]["id"]
    role_id = int(known[name])
    missing = dict(grants)
    for grant in call_auth_api("roles/permissions/list", role_id=role_id)["role_permissions"]:
        resource = (grant["resource_type"], grant["resource_pattern"])
        if missing.get(resource) == grant["permission"]:
            del missing[resource]
        else:
            call_auth_api("roles/permissions/remove", "DELETE", role_permission_id=grant["id"])
    for (kind, pattern), permission in missing.items():
        call_auth_api(
            "roles/permissions/add",
            "POST",
            role_id=role_id,
            resource_type=kind,
            resource_pattern=pattern,
            permission=permission,
        )
    return role_id


def ensure_user(identity: Identity) -> None:
    """Create a user, or give an existing one this password."""
    known = {user["username"] for user in call_auth_api("users/list", version=2)["users"]}
    if identity.name in known:
        act, method = "users/update-password", "PATCH"
    else:
        act, method = "users/create", "POST"
    call_auth_api(act, method, version=2, username=identity.name, password=identity.password)


def _role_ids(user: str) -> set[int]:
    return {int(role["id"]) for role in call_auth_api("users/roles/list", username=user)["roles"]}


def call_auth_api(act: str, method: str = "GET", version: int = 3, **values: Any) -> dict[str, Any]:
    """One request of MLflow's auth API; its own client comes only with the whole server."""
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request, verify_rest_response

    uri = registry_mlflow().get_tracking_uri()
    if not uri.startswith("http"):
        raise RegistryError(
            f"MLFLOW_TRACKING_URI is {uri}; only an MLflow server started with --app-name "
            "basic-auth has roles: set it to the server's address"
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

"""`product1m serve`: page and JSON API of a registered model."""

import functools
from typing import TYPE_CHECKING, Annotated

import typer

from product1m.cli.options import AllowUnsigned, Overrides, TrustedKey, TrustedRoot
from product1m.cli.registry import Rules
from product1m.config import RegistrationConfig, ServerConfig, load_config
from product1m.errors import ConfigError
from product1m.registry.roles import ModelNames
from product1m.serving.signatures import Trust

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastapi import APIRouter

    from product1m.serving.live import Live
    from product1m.serving.web.schema import Role

CHAMPION = "models:/product1m@champion"


def serve(
    overrides: Overrides,
    model: Annotated[str, typer.Option(help="A registered model, or its folder.")] = CHAMPION,
    candidate: Annotated[
        str, typer.Option(help="A second one, shown beside it; a candidate need not be signed.")
    ] = "",
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0 for all of this machine's.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: any free port.", min=0, max=65535)] = 8000,
    review: Annotated[
        bool,
        typer.Option(
            "--review", help="Also a page to promote and reject, with your rights; localhost alone."
        ),
    ] = False,
    rules: Rules = "",
    trusted_key: TrustedKey = None,
    trusted_root: TrustedRoot = None,
    allow_unsigned: AllowUnsigned = False,
    candidate_model: Annotated[
        str, typer.Option(help="Registered model whose versions nobody has signed yet.")
    ] = RegistrationConfig().candidate_model,
) -> None:
    """Answer photos over HTTP: a page, a JSON API, figures for Prometheus.

    The model is verified and loaded once; a champion that `promote` did not make is refused.
    """
    config = load_config("reference", overrides).serving
    require_packages()
    trust = Trust.of_consumer(allow_unsigned, trusted_key or (), trusted_root or ())
    live = _load({"champion": model, "candidate": candidate}, candidate_model, trust, config)
    names = ModelNames(candidate_model, RegistrationConfig().champion_model)
    reviews = _reviews(names, rules, live["champion"], model, host, port) if review else None
    from product1m.serving.web.app import Server, create_app
    from product1m.serving.web.server import run_server

    run_server(create_app(Server(live, config), reviews), host, port, config)


def _load(
    models: "Mapping[Role, str]", candidate_model: str, trust: Trust, config: ServerConfig
) -> "dict[Role, Live]":
    """The models that are named, after what the server needs was tried."""
    from product1m.registry.loading import load_model
    from product1m.serving.live import Live
    from product1m.serving.web.server import check_kept_queries, check_temporary_folder

    check_temporary_folder()
    check_kept_queries(config.keep_queries)
    return {
        role: Live(functools.partial(load_model, name, candidate_model, trust))
        for role, name in models.items()
        if name
    }


def _reviews(
    names: ModelNames, rules: str, live: "Live", model: str, host: str, port: int
) -> "APIRouter":
    """The reviewer's page; prints its address, which holds a secret."""
    from product1m.registry.review_page import LOOPBACK, REVIEW, Guard, Reviewer, review_router
    from product1m.registry.rules import read_rules
    from product1m.registry.signing import signer

    if host not in LOOPBACK:
        raise ConfigError(
            f"--review acts with your rights, so it needs --host 127.0.0.1, not {host}; reach "
            "another machine's by a tunnel, as in `ssh -L 8000:localhost:8000 …`"
        )
    if not port:
        raise ConfigError("--review prints an address, so it needs a --port that is not 0")

    def promoted() -> None:
        if model == CHAMPION:
            live.reload()

    guard = Guard()
    typer.echo(f"review at http://{host}:{port}{REVIEW}?token={guard.secret}")
    return review_router(Reviewer(names, read_rules(rules), lambda: signer(None), promoted), guard)


def require_packages() -> None:
    """ConfigError without the packages of the extra `serving`."""
    try:
        import fastapi
        import prometheus_client
        import python_multipart
        import uvicorn
    except ImportError as error:
        raise ConfigError(
            f"serve needs the package {error.name}; install product1m[serving], or run "
            "`make install`"
        ) from error
    del fastapi, prometheus_client, python_multipart, uvicorn

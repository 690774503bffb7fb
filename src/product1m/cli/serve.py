"""`product1m serve`: page and JSON API of a registered model."""

import functools
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from product1m.cli.next_steps import say_next
from product1m.cli.options import (
    CANDIDATE_MODEL,
    AllowUnsigned,
    CandidateModel,
    Overrides,
    TrustedKey,
    TrustedRoot,
)
from product1m.cli.registry import Rules
from product1m.config import CatalogueConfig, RegistrationConfig, ServerConfig, load_config
from product1m.errors import ConfigError
from product1m.registry.roles import CHALLENGER, CHAMPION_URI, ModelNames
from product1m.serving.signatures import Trust

if TYPE_CHECKING:
    from collections.abc import Mapping

    from product1m.registry.review_page import ReviewDesk
    from product1m.registry.rules import ReviewRules
    from product1m.serving.live import Live
    from product1m.serving.web.schema import ModelRole

logger = logging.getLogger(__name__)

CATALOGUES = CatalogueConfig().catalogue_model
Catalogue = Annotated[
    str,
    typer.Option(
        help="Registered model of catalogues; the server follows its alias `live`. An empty name "
        "answers from the gallery that the model was trained with."
    ),
]


Model = Annotated[str, typer.Option(help="A registered model, or its folder.")]
SecondModel = Annotated[
    str, typer.Option(help="A second model, shown beside the first; it need not be signed.")
]
Host = Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all of this machine's.")]
Port = Annotated[int, typer.Option(help="Port to listen on; 0 for any free one.", min=0, max=65535)]
Examples = Annotated[
    Path | None,
    typer.Option(help="Folder with example photos for the page and an examples.jsonl."),
]
Review = Annotated[
    bool,
    typer.Option(
        "--review",
        help="Also show a page where you promote and reject candidates; on this machine only.",
    ),
]
OpenPage = Annotated[
    bool, typer.Option("--open", help="Open the page in a browser, if there is a screen.")
]


def serve(
    overrides: Overrides,
    model: Model = CHAMPION_URI,
    candidate: SecondModel = "",
    catalogue: Catalogue = CATALOGUES,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    trusted_key: TrustedKey = None,
    trusted_root: TrustedRoot = None,
    allow_unsigned: AllowUnsigned = False,
    candidate_model: CandidateModel = CANDIDATE_MODEL,
    examples: Examples = None,
    review: Review = False,
    rules: Rules = "",
    open_page: OpenPage = False,
) -> None:
    """Answer photos over HTTP: a page, a JSON API, metrics for Prometheus.

    The model is verified and loaded once; a champion that `promote` did not make is refused.
    """
    # Every worker computes with one thread; more threads of OpenBLAS would only wait busily. It
    # reads this when NumPy is imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    config = load_config("reference", overrides).serving
    _check_environment(host, port, config)
    limits = _review_rules(rules, host) if review else None
    trust = Trust.from_options(allow_unsigned, trusted_key or (), trusted_root or ())
    if review:
        candidate = candidate or f"models:/{candidate_model}@{CHALLENGER}"
    live = _load({"champion": model, "candidate": candidate}, candidate_model, trust)
    from product1m.serving.web.app import Server, create_app
    from product1m.serving.web.examples import read_examples
    from product1m.serving.web.server import run_server

    _follow(live["champion"], catalogue if model.startswith("models:/") else "", config)
    server = Server(live, config, read_examples(examples) if examples else ())
    desk = _desk(live, candidate_model, model, limits, trust) if limits else None
    app = create_app(server, desk.router if desk else None)
    show = functools.partial(_show_page, desk.path if desk else "", open_page)
    run_server(app, host, port, config, show)


def _show_page(path: str, open_page: bool, address: str) -> None:
    """Print where the page is, and open it if wanted."""
    from product1m.serving.web.server import open_browser

    page = f"{address.rstrip('/')}{path or '/'}"
    typer.echo(f"open {page} in a browser; Ctrl+C ends the server")
    if open_page:
        open_browser(page)


def _review_rules(rules: str, host: str) -> "ReviewRules":
    """The reviewer's rules; ConfigError if other machines could reach the page."""
    from product1m.registry.review_page import LOOPBACK
    from product1m.registry.rules import read_rules

    if host not in LOOPBACK:
        raise ConfigError(
            f"--review acts with your rights, so it needs --host 127.0.0.1, got {host}; reach "
            "another machine's page through a tunnel, as in `ssh -L 8000:127.0.0.1:8000 HOST`"
        )
    return read_rules(rules)


def _desk(
    live: "Mapping[ModelRole, Live]",
    candidate_model: str,
    model: str,
    limits: "ReviewRules",
    trust: Trust,
) -> "ReviewDesk":
    """The reviewer's page, over what is served."""
    from product1m.registry.loading import load_model
    from product1m.registry.review_page import ReviewDesk, Reviewer
    from product1m.registry.signing import signer_of_environment

    def promoted() -> bool:
        if model == CHAMPION_URI:
            live["champion"].reload()
        return model == CHAMPION_URI

    def show(version: str) -> None:
        name = f"models:/{candidate_model}/{version}"
        live["candidate"].reload(functools.partial(load_model, name, candidate_model, trust))

    names = ModelNames(candidate_model, RegistrationConfig().champion_model)
    return ReviewDesk(Reviewer(names, limits, signer_of_environment, promoted, show))


def small_model(
    model: Annotated[str, typer.Argument(help="A registered model, or its folder.")],
    folder: Annotated[Path, typer.Argument(help="New folder to write.")],
    text_dim: Annotated[int, typer.Option(help="Width of the block of titles.", min=1)] = 128,
    trusted_key: TrustedKey = None,
    trusted_root: TrustedRoot = None,
    allow_unsigned: AllowUnsigned = False,
    candidate_model: CandidateModel = CANDIDATE_MODEL,
) -> None:
    """Write a small copy of a model with nearly the same answers, to keep in a repository.

    Weights have half precision; those that come with an installed package are left out.
    """
    from product1m.registry.loading import fetch_model
    from product1m.registry.small_copy import write_small_copy
    from product1m.storage.scratch import scratch_folder

    trust = Trust.from_options(allow_unsigned, trusted_key or (), trusted_root or ())
    with scratch_folder() as scratch:
        fetched = fetch_model(model, candidate_model, trust, scratch)
        num_bytes = write_small_copy(fetched, folder, text_dim)
    typer.echo(f"{folder}: {num_bytes / 1e6:.1f} MB")
    say_next(f"product1m serve --model {folder} --allow-unsigned")


def _check_environment(host: str, port: int, config: ServerConfig) -> None:
    """Raise what would stop the server, before it spends time on loading a model."""
    _require_packages()
    from product1m.serving.web.server import (
        check_address,
        check_kept_queries,
        check_temporary_folder,
    )

    check_address(host, port)
    check_temporary_folder()
    check_kept_queries(config.keep_queries)


def _load(
    models: "Mapping[ModelRole, str]", candidate_model: str, trust: Trust
) -> "dict[ModelRole, Live]":
    """Load the models that are named."""
    from product1m.registry.loading import load_model
    from product1m.serving.live import Live

    live: dict[ModelRole, Live] = {}
    for role, name in models.items():
        if name:
            logger.info("loading %s", name)
            live[role] = Live(functools.partial(load_model, name, candidate_model, trust))
    return live


def _follow(live: "Live", catalogue: str, config: ServerConfig) -> None:
    """Answer from the live catalogue, and from each newer one as it appears."""
    if catalogue:
        from product1m.catalogue.following import CatalogueFollower

        follower = CatalogueFollower(live, catalogue)
        follower.check()
        follower.start(config.follow_interval_s)


def _require_packages() -> None:
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

"""`product1m`: the steps one by one, the sample split, search, the configuration."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from product1m.cli.catalogue import catalogue_app
from product1m.cli.next_steps import (
    after_evaluation,
    after_extraction,
    after_registration,
    after_search,
    say_next,
)
from product1m.cli.options import (
    CANDIDATE_MODEL,
    AllowUnsigned,
    CandidateModel,
    Overrides,
    PresetName,
    TrustedKey,
    TrustedRoot,
    Version,
    new_app,
)
from product1m.cli.registry import registry_app
from product1m.cli.serve import serve, small_model
from product1m.cli.settings import config_app
from product1m.cli.storage import storage_app
from product1m.cli.terminal import print_table
from product1m.cli.ui import ui
from product1m.config import load_config
from product1m.errors import counted
from product1m.registry.roles import CHAMPION_URI
from product1m.serving.signatures import Trust
from product1m.storage.scratch import scratch_folder
from product1m.telemetry.logs import set_up_logging


def _without_tilde(path: Path | None) -> Path | None:
    """`~` as the home folder: shells leave it alone in `--output=~/x`."""
    return path.expanduser() if path else None


Written = Annotated[Path, typer.Argument(help="Artifact folder to write.", callback=_without_tilde)]
Read = Annotated[Path, typer.Argument(help="Artifact folder to read.", callback=_without_tilde)]

ANSWERS, MODELS = "Answer photos", "Models and catalogue"
STEPS, DATA = "The steps of the pipeline, one by one", "Data, settings and storage"
"""Headings of `product1m --help`."""

app = new_app(
    "Product search: answer photos, review models, keep the catalogue, run single steps. "
    "`python -m pipelines` runs the whole pipeline.",
    add_completion=True,
)
app.command(
    epilog="Example: `product1m serve --port 8000`, then open http://localhost:8000",
    rich_help_panel=ANSWERS,
)(serve)
app.add_typer(registry_app, name="registry", rich_help_panel=MODELS)
app.command(epilog="Example: `product1m ui champion --port 5001`", rich_help_panel=MODELS)(ui)
app.add_typer(catalogue_app, name="catalogue", rich_help_panel=MODELS)
app.command(
    epilog="Example: `product1m small-model models:/product1m-candidate@challenger demo/model`",
    rich_help_panel=MODELS,
)(small_model)
app.add_typer(config_app, name="config", rich_help_panel=DATA)
app.add_typer(storage_app, name="storage", rich_help_panel=DATA)


@app.callback()
def _main(version: Version = False) -> None:
    del version  # its callback printed it
    set_up_logging("product1m")


def _report(scores: dict[str, float]) -> None:
    for name, value in scores.items():
        typer.echo(f"{name:<40} {value:.6g}")


@app.command(
    epilog="Example: `product1m ingestion DIR train gallery queries --preset sample`",
    rich_help_panel=STEPS,
)
def ingestion(
    dataset: Annotated[
        str, typer.Argument(help="Folder or s3:// prefix with product lists and photos.")
    ],
    train: Written,
    gallery: Written,
    queries: Written,
    overrides: Overrides,
    preset: PresetName = "sample",
) -> None:
    """Read product lists and photos into item tables."""
    config = load_config(preset, overrides)
    from product1m.steps import ingestion as step

    _report(step.run(dataset, train, gallery, queries, config.ingestion, config.storage.root))
    say_next(f"product1m background-synthesis {train} scenes --preset {preset}")


@app.command(
    epilog="Example: `product1m background-synthesis train scenes --backgrounds rooms`",
    rich_help_panel=STEPS,
)
def background_synthesis(
    products: Read,
    scenes: Written,
    overrides: Overrides,
    backgrounds: Annotated[
        str,
        typer.Option(
            help="Folder or s3:// prefix of background photos; without it, drawn backgrounds."
        ),
    ] = "",
    preset: PresetName = "sample",
) -> None:
    """Paste cut-out products on backgrounds to make scenes with known boxes."""
    config = load_config(preset, overrides)
    from product1m.steps import background_synthesis as step

    section = config.background_synthesis
    _report(step.run(products, backgrounds, scenes, section, config.storage.root))
    say_next(f"product1m rpn-training {scenes} rpn --preset {preset}")


@app.command(
    epilog="Example: `product1m rpn-training scenes rpn --set rpn_training.num_epochs=1`",
    rich_help_panel=STEPS,
)
def rpn_training(
    scenes: Read, checkpoint: Written, overrides: Overrides, preset: PresetName = "sample"
) -> None:
    """Train the class-agnostic region proposal network on synthesized scenes."""
    section = load_config(preset, overrides).rpn_training
    from product1m.steps import rpn_training as step

    _report(step.run(scenes, checkpoint, section))
    inputs = f"{scenes} {checkpoint} scene-features"
    say_next(f"product1m feature-extraction {inputs} --preset {preset}; so for all photos")


@app.command(
    epilog="Example: `product1m feature-extraction gallery rpn gallery-features`",
    rich_help_panel=STEPS,
)
def feature_extraction(
    images: Read, rpn: Read, features: Written, overrides: Overrides, preset: PresetName = "sample"
) -> None:
    """Extract the features of the proposed regions of photos."""
    config = load_config(preset, overrides)
    from product1m.steps import feature_extraction as step

    section = config.feature_extraction
    _report(step.run(images, rpn, features, section, config.storage.root))
    say_next(f"{after_extraction(images, features)} --preset {preset}")


@app.command(
    epilog="Example: `product1m capture-pretraining train-features scene-features capture`",
    rich_help_panel=STEPS,
)
def capture_pretraining(
    train_features: Read,
    scene_features: Read,
    checkpoint: Written,
    overrides: Overrides,
    preset: PresetName = "sample",
) -> None:
    """Pretrain CAPTURE on titles and regions."""
    section = load_config(preset, overrides).capture_pretraining
    from product1m.steps import capture_pretraining as step

    _report(step.run(train_features, scene_features, checkpoint, section))
    say_next(f"product1m indexing GALLERY_FEATURES {checkpoint} index --preset {preset}")


@app.command(
    epilog="Example: `product1m indexing gallery-features capture index`", rich_help_panel=STEPS
)
def indexing(
    gallery_features: Read,
    capture: Read,
    index: Written,
    overrides: Overrides,
    preset: PresetName = "sample",
) -> None:
    """Embed the gallery and build the index that answers queries."""
    section = load_config(preset, overrides).indexing
    from product1m.steps import indexing as step

    _report(step.run(gallery_features, capture, index, section))
    inputs = f"QUERY_FEATURES {capture} {index} QUERIES GALLERY"
    say_next(f"product1m evaluation {inputs} results --preset {preset}")


@app.command(
    epilog="Example: `product1m evaluation query-features capture index queries gallery results`",
    rich_help_panel=STEPS,
)
def evaluation(
    query_features: Read,
    capture: Read,
    index: Read,
    queries: Read,
    gallery: Read,
    results: Written,
    overrides: Overrides,
    rpn: Annotated[
        Path | None,
        typer.Option(
            help="RPN artifact; also encodes the crops of boxes with it.", callback=_without_tilde
        ),
    ] = None,
    preset: PresetName = "sample",
) -> None:
    """Rank the gallery for every query and report how good the rankings are."""
    section = load_config(preset, overrides).evaluation
    from product1m.steps import evaluation as step

    _report(step.run(query_features, capture, index, queries, gallery, results, section, rpn))
    inputs = f"{rpn or 'RPN'} {capture} {index} {results} {queries} {gallery}"
    say_next(*after_evaluation(results, inputs, preset))


@app.command(
    epilog="Example: `product1m registration rpn capture index results queries gallery registered`",
    rich_help_panel=STEPS,
)
def registration(
    rpn: Read,
    capture: Read,
    index: Read,
    evaluation: Read,
    queries: Read,
    gallery: Read,
    registered: Written,
    overrides: Overrides,
    preset: PresetName = "sample",
) -> None:
    """Register RPN, CAPTURE, tokenizer and index as one candidate model version."""
    section = load_config(preset, overrides).registration
    from product1m.steps import registration as step

    inputs = (rpn, capture, index, evaluation, queries, gallery)
    _report(step.run(*inputs, registered, section))
    say_next(*after_registration(registered))


@app.command(
    epilog="Examples: `product1m make-sample build/sample-data --seed 1`, "
    "`product1m make-sample build/small --from DIR --classes 40`",
    rich_help_panel=DATA,
)
def make_sample(
    folder: Annotated[Path, typer.Argument(help="Empty or new folder to write.")],
    seed: Annotated[int, typer.Option(help="The same seed gives the same sample.", min=0)] = 0,
    source: Annotated[
        Path | None,
        typer.Option("--from", help="Take the sample from this data set.", callback=_without_tilde),
    ] = None,
    classes: Annotated[
        int, typer.Option(help="With --from: approximate number of classes to keep.", min=1)
    ] = 40,
) -> None:
    """Write a sample split: rendered packs in Product1M's list format, or a cut of real data."""
    from product1m import sample

    if source is None:
        _report(sample.make_sample(folder, seed))
    else:
        _report(sample.cut_sample(source, folder, classes, seed))
    say_next(f"python -m pipelines run --dataset {folder} --output build/sample --preset sample")


@app.command(
    epilog="Example: `product1m score lists/ test/retrieval_id_list.txt --split test`",
    rich_help_panel=DATA,
)
def score(
    lists: Annotated[Path, typer.Argument(help="Folder with product lists.")],
    rankings: Annotated[Path, typer.Argument(help="Lines `query,id1,id2,…`, best first.")],
    definition: Annotated[
        Literal["official", "strict", "both"], typer.Option(help="Definition of the metrics.")
    ] = "both",
    as_released: Annotated[
        bool,
        typer.Option(
            "--as-released", help="Read files as the released script does; `official` only."
        ),
    ] = False,
    split: Annotated[
        Literal["dev", "test"] | None,
        typer.Option(help="Score the queries of one split; default: all queries in the file."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score a file of rankings against product lists: mAP, mAR and Prec at 10, 50 and 100."""
    from product1m.evaluation.metrics import DEFINITIONS
    from product1m.evaluation.scoring import score as score_rankings

    wanted = [name for name in DEFINITIONS if definition in (name, "both")]
    if as_released and definition == "both":
        wanted = ["official"]
    scores = score_rankings(lists, rankings, wanted, as_released, split)
    if as_json:
        typer.echo(json.dumps(scores.scores))
        return
    for name, depths in scores.scores.items():
        for depth, metrics in depths.items():
            figures = "  ".join(f"{metric} {value:.4f}" for metric, value in metrics.items())
            typer.echo(f"{name:<8} @{depth:<4} {figures}")
    option = f" --split {split}" if split else ""
    say_next(f"product1m score {lists} OTHER_FILE{option} scores other rankings of these queries")


@app.command(
    epilog='Example: `product1m search photo.jpg --title "rose gift set" --output answers.html`',
    rich_help_panel=ANSWERS,
)
def search(
    photo: Annotated[Path, typer.Argument(help="A photo of one or several products.")],
    title: Annotated[str, typer.Option(help="The seller's title of the photo.")],
    model: Annotated[str, typer.Option(help="A registered model, or its folder.")] = CHAMPION_URI,
    output: Annotated[
        Path | None,
        typer.Option(help="A page (.html) or JSON (.json) to write.", callback=_without_tilde),
    ] = None,
    top_k: Annotated[int, typer.Option(help="Answers for each box.", min=1)] = 5,
    catalogue: Annotated[
        Path | None, typer.Option(help="Folder of the catalogue to search instead.")
    ] = None,
    trusted_key: TrustedKey = None,
    trusted_root: TrustedRoot = None,
    allow_unsigned: AllowUnsigned = False,
    candidate_model: CandidateModel = CANDIDATE_MODEL,
) -> None:
    """Show what a registered model answers for every product in a photo.

    A champion is verified before it is loaded: every byte must be what a trusted key signed.
    """
    from product1m.registry.loading import fetch_model
    from product1m.serving import search_page

    if output:
        search_page.check_output(output)
    asked = search_page.read_photo(photo)
    trust = Trust.from_options(allow_unsigned, trusted_key or (), trusted_root or ())
    with scratch_folder() as scratch:
        folder = fetch_model(model, candidate_model, trust, scratch)
        answered = search_page.search(asked, title, folder, model, top_k, catalogue)
    if output:
        search_page.write_output(answered, output)
        typer.echo(f"{counted(len(answered.boxes), 'box', 'boxes')} answered: {output}")
    else:
        print_table(search_page.COLUMNS, search_page.table_rows(answered))
    say_next(*after_search(output, model, allow_unsigned=allow_unsigned))


@app.command(
    epilog="Example: `product1m clean-uploads s3://product1m --older-than-hours 24`",
    rich_help_panel=DATA,
)
def clean_uploads(
    address: Annotated[str, typer.Argument(help="s3://BUCKET or s3://BUCKET/PREFIX to clean.")],
    older_than_hours: Annotated[
        float, typer.Option(help="Keep uploads younger than this.", min=0)
    ] = 24,
) -> None:
    """Abort multipart uploads that killed processes left unfinished; they take space."""
    from product1m.storage.opening import abort_unfinished_uploads

    aborted = abort_unfinished_uploads(address, older_than_hours)
    for upload in aborted:
        typer.echo(upload)
    typer.echo(f"{len(aborted)} unfinished uploads aborted")
    say_next(f"product1m storage gc {address} lists objects that no artifact uses")

"""An ablation's figures against plain arithmetic, and how they are shown."""

import dataclasses
import itertools
import json
import random
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipelines.ablation.grids import Cell, Grid
from pipelines.ablation.results import AblationResults, compare, write_results
from pipelines.ablation.showing import draw, markdown, show, update_page
from product1m.errors import PipelineError
from product1m.evaluation.statistics import BootstrapPlan

PLAN = BootstrapPlan(num_bootstrap=2000, confidence=0.95, seed=1)
GRID = Grid(
    "pretext",
    "What is each task worth?",
    (
        Cell("full", "every task"),
        Cell("without-a", "without a", {"capture_pretraining.contrast_weight": 0.0}),
        Cell("unsplit", "the whole photo", method="shipped_whole_photo"),
    ),
    {},
    ("shipped", "joint"),
)
NUM_QUERIES, SEEDS = 30, (0, 4)


def ap_of(cell: str, seed: int, query: int) -> float:
    """Invented: `without-a` loses 0.1, the more with seed 4, `unsplit` gains a little."""
    generator = random.Random(query)
    base = 0.5 + 0.3 * generator.random()
    loss = {"full": 0.0, "without-a": 0.08 + 0.01 * seed, "unsplit": -0.01 * (query % 3)}[cell]
    return base - loss + 0.02 * seed


def frame(cell: str, seed: int) -> pd.DataFrame:
    """Rows as an evaluation has them; only strict and the right method matter."""
    rows = []
    methods = ("shipped", "shipped_whole_photo", "joint")
    for query, method, definition in itertools.product(
        range(NUM_QUERIES), methods, ("strict", "official")
    ):
        ap = ap_of(cell, seed, query) + (method == "joint") * 0.1
        rows.append(
            {
                "query_id": f"q{query}",
                "method": method,
                "definition": definition,
                "ap": ap + (definition == "official") * 5,
                "recall": ap / 2,
                "precision": ap / 3,
            }
        )
    return pd.DataFrame(rows)


def compared(cells: tuple[str, ...] = ("full", "without-a", "unsplit")) -> AblationResults:
    scores = {cell: {seed: frame(cell, seed) for seed in SEEDS} for cell in cells}
    data = {"dataset_uri": "/data/mine", "dataset_digest": "abcdef0123456789"}
    return compare(GRID, scores, PLAN, {"oracle": "no boxes"}, "sample", data)


def with_products(cell: str, seed: int) -> pd.DataFrame:
    """Every query has two products; of `without-a` none is found at once, else one."""
    found = {"products_found@1": 0 if cell == "without-a" else 1, "products_found@5": 1}
    return frame(cell, seed).assign(products=2, **found)


def test_products_found_stand_beside_the_scores_where_there_are_boxes() -> None:
    grid = dataclasses.replace(GRID, measures=("shipped",), shows_products=True)
    names = [cell.name for cell in grid.cells]
    scores = {cell: {seed: with_products(cell, seed) for seed in SEEDS} for cell in names}
    data = {"dataset_uri": "/data/mine", "dataset_digest": "abcdef0123456789"}
    found = compare(grid, scores, PLAN, {}, "sample", data)
    shares = [[interval.mean for interval in row.products.values()] for row in found.rows]
    assert shares == [[0.5, 0.5], [0.0, 0.5], []]
    header, _, full, _, unsplit = markdown(found).splitlines()[2:7]
    assert header.endswith("found@1 | found@5 |")
    assert full.endswith("0.500 [0.500, 0.500] | 0.500 [0.500, 0.500] |")
    assert unsplit.endswith("| – | – |")


@pytest.fixture(scope="module")
def results() -> AblationResults:
    return compared()


def test_scores_and_differences_equal_plain_means(results: AblationResults) -> None:
    def mean(cell: str, seeds: tuple[int, ...]) -> float:
        return statistics.mean(ap_of(cell, s, q) for s in seeds for q in range(NUM_QUERIES))

    for row in results.rows_for("shipped"):
        assert row.score.mean == pytest.approx(mean(row.cell, SEEDS))
        expected = mean(row.cell, SEEDS) - mean("full", SEEDS)
        assert row.difference.mean == pytest.approx(expected)
        for seed in SEEDS:
            assert row.by_seed[seed] == pytest.approx(mean(row.cell, (seed,)))
            gap = mean(row.cell, (seed,)) - mean("full", (seed,))
            assert row.difference_by_seed[seed] == pytest.approx(gap)
    assert results.rows_for("joint")[1].score.mean == pytest.approx(mean("without-a", SEEDS) + 0.1)


def test_the_interval_is_that_of_resampled_queries(results: AblationResults) -> None:
    gaps = [
        statistics.mean(ap_of("unsplit", s, q) - ap_of("full", s, q) for s in SEEDS)
        for q in range(NUM_QUERIES)
    ]
    generator = random.Random(0)
    means = sorted(statistics.mean(generator.choices(gaps, k=NUM_QUERIES)) for _ in range(4000))
    row = results.rows_for("shipped")[2]
    assert row.difference.low == pytest.approx(means[100], abs=4e-4)
    assert row.difference.high == pytest.approx(means[-101], abs=4e-4)
    constant = results.rows_for("shipped")[1].difference
    assert constant.low == pytest.approx(constant.high), "every query loses the same"


def test_a_stand_in_replaces_the_shipped_ranking_alone(results: AblationResults) -> None:
    methods = [row.method for row in results.rows if row.cell == "unsplit"]
    assert methods == ["shipped_whole_photo"], "CAPTURE's own embedding is that of the full model"


def test_a_cell_without_scores_is_not_in_the_table() -> None:
    assert [row.cell for row in compared(("full", "unsplit")).rows_for("shipped")] == [
        "full",
        "unsplit",
    ]


def test_seeds_that_scored_other_queries_are_refused() -> None:
    cut = frame("full", 4)
    scores = {"full": {0: frame("full", 0), 4: cut[cut["query_id"] != "q3"]}}
    with pytest.raises(PipelineError, match="full: its 2 seeds scored different queries"):
        compare(GRID, scores, PLAN, {}, "sample", {})


def test_files_hold_what_was_compared(results: AblationResults, tmp_path: Path) -> None:
    write_results(tmp_path, results)
    again = AblationResults.model_validate_json((tmp_path / "results.json").read_text("utf-8"))
    assert again == results
    table = pd.read_csv(tmp_path / "results.csv")
    row = table[(table["cell"] == "without-a") & (table["measure"] == "shipped")].iloc[0]
    assert row["difference_mean"] == pytest.approx(-0.1)
    assert row["official/mAP@10"] == pytest.approx(row["map_at_10_mean"] + 5)
    assert json.loads(row["overrides"]) == {"capture_pretraining.contrast_weight": 0.0}


def test_the_tables_state_figures_and_what_is_left_out(
    results: AblationResults, capsys: pytest.CaptureFixture[str]
) -> None:
    row = results.rows_for("shipped")[1]
    expected = f"{row.score.mean:.3f} [{row.score.low:.3f}, {row.score.high:.3f}]"
    text = markdown(results)
    assert (
        f"| without-a | without a | {expected} | {row.by_seed[0]:.3f} … {row.by_seed[4]:.3f} "
        "| -0.100 [-0.100, -0.100] | -0.120 … -0.080 |"
    ) in text
    assert "30 test queries, pretraining seeds 0, 4" in text
    assert "Left out: `oracle`: no boxes." in text
    show(results)
    shown = capsys.readouterr().out
    assert "left out: oracle: no boxes" in shown
    assert "-0.100 [-0.100, -0.100]" in shown


def test_a_page_takes_the_results_between_its_markers(
    results: AblationResults, tmp_path: Path
) -> None:
    plot, page = tmp_path / "plot.png", tmp_path / "docs" / "page.md"
    draw(results, plot)
    page.parent.mkdir()
    page.write_text(
        "# Before\n<!-- results: pretext -->\nold\n<!-- end of results -->\nafter\n"
        "<!-- results: layers -->\nkept\n<!-- end of results -->\n"
    )
    for _ in range(2):
        update_page(page, results, plot)
        text = page.read_text("utf-8")
        assert text.startswith("# Before\n<!-- results: pretext -->\n")
        assert "old" not in text
        assert text.count("| without-a |") == 2
        assert "after\n<!-- results: layers -->\nkept\n" in text
    picture = page.parent / "images" / "ablation-pretext.png"
    assert f"](images/{picture.name})" in text
    assert picture.read_bytes() == plot.read_bytes()
    page.write_text("nothing here")
    with pytest.raises(PipelineError, match="expected the line '<!-- results: pretext -->'"):
        update_page(page, results, plot)


def test_the_plot_puts_every_cell_at_its_difference(
    results: AblationResults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *arguments: Any, **options: Any) -> None:
        drawn.append(figure)
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    draw(results, tmp_path / "plot.png")
    panels = drawn[0].axes
    assert len(panels) == 2
    assert [label.get_text() for label in panels[0].get_yticklabels()] == ["unsplit", "without-a"]
    labeled = [line for line in panels[0].lines if not str(line.get_label()).startswith("_")]
    dots = {line.get_label(): tuple(np.ravel(line.get_xydata())) for line in labeled}
    rows = results.rows_for("shipped")
    assert dots == {
        "unsplit": (rows[2].difference.mean, 0.0),
        "without-a": (rows[1].difference.mean, 1.0),
    }
    assert (tmp_path / "plot.png").stat().st_size > 5000

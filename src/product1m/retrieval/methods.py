"""The rankings that are measured side by side on the same queries."""

from collections.abc import Mapping
from dataclasses import dataclass

from product1m.config import EvaluationConfig
from product1m.progress import track
from product1m.retrieval.baselines import oracle_rankings, random_rankings
from product1m.retrieval.embedding import FUSABLE
from product1m.retrieval.fusion import DevQueries, Fusion, candidates, choose_weights
from product1m.retrieval.metrics import GroundTruth
from product1m.retrieval.search import QueryVectors, Searcher

SHIPPED, IMAGE_TEXT = "shipped", "image_text"
WHOLE_PHOTO = "_whole_photo"
FIXED: Mapping[str, Mapping[str, float]] = {
    "joint": {"joint": 1.0},
    "joint_streams": {"joint": 1.0, "stream_product": 1.0},
    "streams": {"streams": 1.0},
    "image": {"image": 1.0},
    "text": {"text": 1.0},
}
"""Rankings without anything to choose: the paper's embedding, the first author's (products of the
joint and of the stream tokens), the two towers, raw features, titles."""
FUSED: Mapping[str, tuple[str, ...]] = {SHIPPED: FUSABLE, IMAGE_TEXT: ("image", "text")}
"""Rankings whose block weights are chosen on dev, and the blocks they may use."""
RANDOM, ORACLE = BASELINES = ("random", "oracle")
"""The two ends of the scale, which no index ranks."""


@dataclass(frozen=True)
class Method:
    """A way to rank the gallery for a query."""

    name: str
    weights: Mapping[str, float]
    whole_photo: bool
    """The photo is one view, instead of one an instance."""


def choose_fusions(searcher: Searcher, dev: QueryVectors, truth: GroundTruth) -> dict[str, Fusion]:
    """Weights of every fused ranking; the whole photo gets its own, to be as strong as it can."""
    answerable = DevQueries.of(dev, searcher.gallery.ids, truth, searcher.config.merge)
    fusions = {}
    for suffix in ("", WHOLE_PHOTO):
        pool = candidates(dev, searcher.gallery, searcher.layout, FUSABLE, bool(suffix))
        for name, blocks in FUSED.items():
            fusions[name + suffix] = choose_weights(pool, answerable, blocks, searcher.config)
    return fusions


def list_methods(fusions: Mapping[str, Fusion]) -> list[Method]:
    """Every ranking of the gallery by an index, shipped first."""
    return [
        Method(name + suffix, FIXED.get(name) or fusions[name + suffix].weights, bool(suffix))
        for suffix in ("", WHOLE_PHOTO)
        for name in (SHIPPED, *FIXED, IMAGE_TEXT)
    ]


def rank_all(
    searcher: Searcher, queries: QueryVectors, fusions: Mapping[str, Fusion], truth: GroundTruth
) -> dict[str, dict[str, list[str]]]:
    """Rankings of every method and baseline: method, query id, gallery ids."""
    config: EvaluationConfig = searcher.config
    ranked = {
        method.name: searcher.rank(queries, method.weights, method.whole_photo)
        for method in track(list_methods(fusions), "ranking")
    }
    ranked[RANDOM] = random_rankings(
        queries.query_ids, searcher.gallery.ids, config.depth, config.seed
    )
    labels = {query: truth.query_labels[query] for query in queries.query_ids}
    ranked[ORACLE] = oracle_rankings(labels, truth.gallery_label, config.depth)
    return ranked

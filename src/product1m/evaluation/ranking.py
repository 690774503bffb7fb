"""Make the rankings that are measured side by side on the same queries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from product1m.errors import RetrievalError
from product1m.evaluation.bounds import oracle_rankings, random_rankings
from product1m.evaluation.fusion import (
    Candidates,
    DevQueries,
    Fusion,
    FusionSettings,
    Surface,
    Trials,
    candidates,
    choose_weights,
    try_weights,
    weight_surface,
)
from product1m.evaluation.methods import (
    FIXED,
    IMAGE,
    IMAGE_TEXT,
    INSTANCE_CROPS,
    MERGE_PREFIX,
    ORACLE,
    ORACLE_BOXES,
    RANDOM,
    SHIPPED,
    TEXT,
    WHOLE_PHOTO,
)
from product1m.evaluation.metrics import GroundTruth
from product1m.evaluation.variants import QueryViews
from product1m.retrieval.embedding import FUSABLE
from product1m.retrieval.merging import MERGE_RULES, MergeRule
from product1m.retrieval.search import QueryVectors, Searcher
from product1m.telemetry.progress import track

ViewKind = Literal["instances", "whole_photo", "oracle_boxes", "instance_crops"]
_VIEWS: tuple[tuple[str, ViewKind], ...] = (("", "instances"), (WHOLE_PHOTO, "whole_photo"))


@dataclass(frozen=True)
class Method:
    """A way to rank the gallery for a query."""

    name: str
    weights: Mapping[str, float]
    views: ViewKind = "instances"
    """What is searched with: one vector an instance, or one for the whole photo."""
    merge: MergeRule | None = None
    """How the instances' rankings become one, where not as it ships."""


@dataclass(frozen=True)
class Choice:
    """What the dev queries decided, and what it tells of the blocks."""

    fusions: dict[str, Fusion]
    """Weights of every fused ranking, by method."""
    surface: Surface | None
    """The shipped ranking's dev score over the weights of its two largest blocks."""
    without: dict[str, Fusion]
    """The shipped ranking with one block less, weights chosen anew, by the block left out."""
    growing: dict[str, Fusion]
    """The shipped ranking grown from one block to all: each time the one that dev gains most by."""


@dataclass(frozen=True)
class _WeightSearch:
    """Every point of the grid tried on the dev queries, for one way of cutting them into views."""

    pool: Candidates
    dev: DevQueries
    settings: FusionSettings
    trials: Trials

    @classmethod
    def over(
        cls,
        searcher: Searcher,
        vectors: QueryVectors,
        dev: DevQueries,
        settings: FusionSettings,
        whole_photo: bool,
    ) -> "_WeightSearch":
        pool = candidates(vectors, searcher.gallery, searcher.layout, FUSABLE, whole_photo)
        return cls(pool, dev, settings, try_weights(pool, dev, settings.tried_weights))

    def choose(self, blocks: Sequence[str]) -> Fusion:
        return choose_weights(self.pool, self.dev, blocks, self.settings, self.trials)

    def without_each(self, blocks: Sequence[str]) -> dict[str, Fusion]:
        if len(blocks) == 1:
            return {}
        return {
            left_out: self.choose([block for block in blocks if block != left_out])
            for left_out in blocks
        }

    def growing(self, blocks: Sequence[str]) -> dict[str, Fusion]:
        """By the block added, the one first that dev gains most by."""
        grown: dict[str, Fusion] = {}
        while len(grown) < len(blocks):
            tried = {block: self.choose([*grown, block]) for block in blocks if block not in grown}
            best = max(tried, key=lambda block: tried[block].dev_map_at_10)
            grown[best] = tried[best]
        return grown


def choose_fusions(
    searcher: Searcher, vectors: QueryVectors, truth: GroundTruth, settings: FusionSettings
) -> Choice:
    """Weights of every fused ranking; the whole photo gets its own, to be as strong as it can."""
    dev = DevQueries.of(vectors, searcher.gallery.ids, truth, searcher.settings.merge)
    fused = {SHIPPED: settings.blocks, IMAGE_TEXT: (IMAGE, TEXT)}
    by_suffix = {
        suffix: _WeightSearch.over(searcher, vectors, dev, settings, bool(suffix))
        for suffix in ("", WHOLE_PHOTO)
    }
    fusions = {
        name + suffix: search.choose(blocks)
        for suffix, search in by_suffix.items()
        for name, blocks in fused.items()
    }
    per_instance = by_suffix[""]
    return Choice(
        fusions,
        weight_surface(per_instance.pool, dev, fusions[SHIPPED]),
        per_instance.without_each(settings.blocks),
        per_instance.growing(settings.blocks),
    )


def list_methods(
    fusions: Mapping[str, Fusion], views: QueryViews, shipped_rule: MergeRule
) -> list[Method]:
    """Every ranking of the gallery by an index, shipped first."""
    methods = [
        Method(name + suffix, FIXED.get(name) or fusions[name + suffix].weights, kind)
        for suffix, kind in _VIEWS
        for name in (SHIPPED, *FIXED, IMAGE_TEXT)
    ]
    weights = fusions[SHIPPED].weights
    methods += [
        Method(MERGE_PREFIX + rule, weights, merge=rule)
        for rule in MERGE_RULES
        if rule != shipped_rule
    ]
    if views.instance_crops:
        methods.append(Method(INSTANCE_CROPS, weights, "instance_crops"))
    if views.oracle_boxes:
        methods.append(Method(ORACLE_BOXES, weights, "oracle_boxes"))
    return methods


def rank_all(
    searcher: Searcher,
    views: QueryViews,
    fusions: Mapping[str, Fusion],
    truth: GroundTruth,
    seed: int,
) -> dict[str, dict[str, list[str]]]:
    """Rankings of every method and both ends of the scale: method, query id, gallery ids.

    `seed` draws the random rankings.
    """
    depth = searcher.settings.depth
    ranked = {
        method.name: rank(searcher, views, method)
        for method in track(list_methods(fusions, views, searcher.settings.merge), "ranking")
    }
    query_ids = views.found.query_ids
    ranked[RANDOM] = random_rankings(query_ids, searcher.gallery.ids, depth, seed)
    labels = {query: truth.query_labels[query] for query in query_ids}
    ranked[ORACLE] = oracle_rankings(labels, truth.gallery_label, depth)
    return ranked


def rank(searcher: Searcher, views: QueryViews, method: Method) -> dict[str, list[str]]:
    """Rankings of one method by query id."""
    vectors = {
        "oracle_boxes": views.oracle_boxes,
        "instance_crops": views.instance_crops,
    }.get(method.views, views.found)
    if vectors is None:
        raise RetrievalError(f"method {method.name}: these queries have no {method.views}")
    return searcher.rank(vectors, method.weights, method.views == "whole_photo", method.merge)

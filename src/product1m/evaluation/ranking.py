"""Make the rankings that an evaluation compares on the same queries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from product1m.errors import RetrievalError
from product1m.evaluation.bounds import oracle_rankings, random_rankings
from product1m.evaluation.check_weights import with_checks
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
    CROP,
    FIXED,
    IMAGE,
    IMAGE_TEXT,
    IMAGE_TEXT_OCR,
    IMAGE_TEXT_POINTS,
    INSTANCE_CROPS,
    JOINT_STREAMS,
    MERGE_PREFIX,
    NEAREST_TITLE,
    OCR,
    ORACLE,
    ORACLE_BOXES,
    RANDOM,
    READ,
    SHIPPED,
    TEXT,
    WHOLE_PHOTO,
)
from product1m.evaluation.metrics import GroundTruth
from product1m.evaluation.title_baseline import Titles, nearest_title_rankings
from product1m.evaluation.variants import QueryVariants
from product1m.retrieval.checking import CHECKS
from product1m.retrieval.embedding import FUSABLE
from product1m.retrieval.merging import MERGE_RULES, MergeRule
from product1m.retrieval.query_vectors import QueryVectors
from product1m.retrieval.search import Searcher
from product1m.telemetry.progress import track

VariantName = Literal["detected", "whole_photo", "oracle_boxes", "instance_crops"]
_BY_SUFFIX: tuple[tuple[str, VariantName], ...] = (("", "detected"), (WHOLE_PHOTO, "whole_photo"))


@dataclass(frozen=True)
class Method:
    """A way to rank the gallery for a query."""

    name: str
    weights: Mapping[str, float]
    variant: VariantName = "detected"
    """Which vectors search: one per box, or one for the whole photo."""
    merge: MergeRule | None = None
    """Rule that merges the boxes' rankings; None for the rule of the shipped ranking."""


@dataclass(frozen=True)
class Choice:
    """The block weights chosen on the dev queries, for the shipped ranking and for comparisons."""

    fusions: dict[str, Fusion]
    """Block weights of every fused ranking, by method."""
    surface: Surface | None
    """The shipped ranking's dev score over the weights of its two largest blocks."""
    without: dict[str, Fusion]
    """The shipped ranking without one block, with weights chosen again; by the block left out."""
    growing: dict[str, Fusion]
    """The shipped ranking with one block, two blocks, … up to all, each time with the block that
    improves the dev score most; by the block added."""


@dataclass(frozen=True)
class _WeightSearch:
    """Every point of the grid tried on the dev queries, for their boxes or their whole photos."""

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
        blocks = searcher.layout.available(FUSABLE)
        pool = candidates(vectors, searcher.gallery, searcher.layout, blocks, whole_photo)
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
        """By the block added; each time the block that improves the dev score most."""
        grown: dict[str, Fusion] = {}
        while len(grown) < len(blocks):
            tried = {block: self.choose([*grown, block]) for block in blocks if block not in grown}
            best = max(tried, key=lambda block: tried[block].dev_map_at_10)
            grown[best] = tried[best]
        return grown


def choose_fusions(
    searcher: Searcher, vectors: QueryVectors, truth: GroundTruth, settings: FusionSettings
) -> Choice:
    """Choose the weights of every fused ranking; whole photos get their own, to be fair."""
    dev = DevQueries.answerable(vectors, searcher.gallery.ids, truth, searcher.settings.merge)
    available = searcher.layout.available(settings.blocks)
    fused = {SHIPPED: available, IMAGE_TEXT: (IMAGE, TEXT)}
    if OCR in searcher.layout.widths:
        fused[IMAGE_TEXT_OCR] = (IMAGE, TEXT, OCR)
    by_suffix = {
        suffix: _WeightSearch.over(searcher, vectors, dev, settings, bool(suffix))
        for suffix in ("", WHOLE_PHOTO)
    }
    fusions = {
        name + suffix: search.choose(blocks)
        for suffix, search in by_suffix.items()
        for name, blocks in fused.items()
    }
    per_box, blocks_alone = by_suffix[""], fusions[SHIPPED]
    surface = weight_surface(per_box.pool, dev, blocks_alone)
    without, growing = per_box.without_each(available), per_box.growing(available)
    bases = {SHIPPED: SHIPPED}
    if vectors.shared is not None:
        bases[IMAGE_TEXT_POINTS] = IMAGE_TEXT
    for suffix in by_suffix:
        for name, base in bases.items():
            fusions[name + suffix] = with_checks(
                fusions[base + suffix], searcher, vectors, dev, settings, bool(suffix)
            )
    return _with_checks_left_out(Choice(fusions, surface, without, growing), blocks_alone)


def _with_checks_left_out(choice: Choice, blocks_alone: Fusion) -> Choice:
    """The choice with what each check of the shipped ranking brings."""
    shipped = choice.fusions[SHIPPED]
    checks = {name: shipped.weights[name] for name in CHECKS if name in shipped.weights}
    without = {
        block: replace(fusion, weights=fusion.weights | checks)
        for block, fusion in choice.without.items()
    }
    growing, grown = dict(choice.growing), blocks_alone.weights
    for check, weight in checks.items():
        others = {name: value for name, value in shipped.weights.items() if name != check}
        without[check] = replace(shipped, weights=others)
        grown = grown | {check: weight}
        growing[check] = replace(shipped, weights=grown)
    return replace(choice, without=without, growing=growing)


def list_methods(
    fusions: Mapping[str, Fusion],
    variants: QueryVariants,
    shipped_rule: MergeRule,
    has_products: bool = True,
) -> list[Method]:
    """Every ranking of the gallery by an index, shipped first.

    `has_products` says whether the index has the vectors for the first author's ranking.
    """
    methods = [
        Method(name + suffix, FIXED.get(name) or fusions[name + suffix].weights, kind)
        for suffix, kind in _BY_SUFFIX
        for name in (SHIPPED, *FIXED, IMAGE_TEXT, IMAGE_TEXT_OCR, IMAGE_TEXT_POINTS)
        if (IMAGE_TEXT_OCR in fusions or name not in READ)
        and (IMAGE_TEXT_POINTS in fusions or name != IMAGE_TEXT_POINTS)
        and (has_products or name != JOINT_STREAMS)
        and (CROP in fusions[SHIPPED].weights or name != CROP)
    ]
    weights = fusions[SHIPPED].weights
    methods += [
        Method(MERGE_PREFIX + rule, weights, merge=rule)
        for rule in MERGE_RULES
        if rule != shipped_rule
    ]
    if variants.instance_crops:
        methods.append(Method(INSTANCE_CROPS, weights, "instance_crops"))
    if variants.oracle_boxes:
        methods.append(Method(ORACLE_BOXES, weights, "oracle_boxes"))
    return methods


def rank_all(
    searcher: Searcher,
    variants: QueryVariants,
    fusions: Mapping[str, Fusion],
    dev: QueryVectors,
    truth: GroundTruth,
    seed: int,
) -> dict[str, dict[str, list[str]]]:
    """Rankings of every method and both ends of the scale: method, query id, gallery ids.

    The baseline of nearest titles uses the labels of `dev`; `seed` draws the random rankings.
    """
    depth, has_products = searcher.settings.depth, searcher.first_author is not None
    methods = list_methods(fusions, variants, searcher.settings.merge, has_products)
    ranked = {method.name: rank(searcher, variants, method) for method in track(methods, "ranking")}
    query_ids = variants.detected.query_ids
    asked, known = (_titles(searcher, vectors) for vectors in (variants.detected, dev))
    ranked[NEAREST_TITLE] = nearest_title_rankings(asked, known, truth, depth)
    ranked[RANDOM] = random_rankings(query_ids, searcher.gallery.ids, depth, seed)
    labels = {query: truth.query_labels[query] for query in query_ids}
    ranked[ORACLE] = oracle_rankings(labels, truth.gallery_label, depth)
    return ranked


def _titles(searcher: Searcher, queries: QueryVectors) -> Titles:
    columns = searcher.layout.columns(TEXT)
    return Titles(queries.query_ids, queries.photo_vectors[:, columns])


def rank(searcher: Searcher, variants: QueryVariants, method: Method) -> dict[str, list[str]]:
    """Rankings of one method by query id."""
    vectors = {
        "oracle_boxes": variants.oracle_boxes,
        "instance_crops": variants.instance_crops,
    }.get(method.variant, variants.detected)
    if vectors is None:
        raise RetrievalError(f"method {method.name}: these queries have no {method.variant}")
    return searcher.rank(vectors, method.weights, method.variant == "whole_photo", method.merge)

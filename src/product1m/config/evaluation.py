"""Settings of `evaluation`."""

from typing import Annotated, Literal, get_args

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from product1m.config.section import Block, Fraction, StepConfig


class EvaluationConfig(StepConfig):
    """Rank the gallery for every query, measure the rankings, write the report."""

    depth: PositiveInt = 100
    """Length of a ranking (paper)."""
    instance_nms_iou: Fraction = 0.0
    """Regions that overlap with a larger IoU become one box; with a smaller one, the less sure
    region needs a higher score. 0 takes the value of the RPN's artifact, `instances/best_nms_iou`;
    evaluation measures the one it uses on held-out scenes, `held_out_scenes/…` (ours)."""
    instance_min_score: Fraction = 0.0
    """Minimum detector score of a box. 0 takes the value that RPN training chose on held-out
    scenes, `instances/best_min_score`; evaluation measures the one it uses on the same scenes,
    `held_out_scenes/…` (ours)."""
    max_instances: PositiveInt = 8
    """Maximum number of boxes of a photo; in the test list 99.8 % of the rows have at most 8
    labels, the longest has 12 (ours)."""
    merge: Literal["best_score", "round_robin", "score_sorted", "reciprocal_rank"] = "best_score"
    """How the rankings of the boxes become one ranking without duplicates: by an item's best score
    over the boxes; in turns, starting with the box whose ranking scores best; by score, with the
    scores of each ranking scaled to 0 … 1; or by the sum of 1 / (60 + rank). All are measured, this
    one is shipped (ours)."""
    encode_crops: bool = True
    """Also rank with every box cut out of its photo and encoded at full size, to measure what
    pooling from the photo loses; the slowest part of the evaluation (ours)."""
    num_timed_queries: PositiveInt = 100
    """Test queries answered one at a time to measure the time for embedding, search and merging
    (ours)."""
    num_bootstrap: PositiveInt = 2000
    """Number of bootstrap resamples of the queries for an interval (ours)."""
    confidence: Fraction = 0.95
    """Confidence level of the intervals (ours)."""
    fused_blocks: Annotated[tuple[Block, ...], Field(min_length=1)] = get_args(Block)
    """Blocks that the shipped ranking may use (ours)."""
    fusion_weights: tuple[NonNegativeFloat, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """Block weights tried on the dev queries (ours)."""
    points_weights: tuple[NonNegativeFloat, ...] = (0.0, 0.02, 0.05, 0.1, 0.2)
    """What the logarithm of the number of points that a box shares with an answer adds to their
    similarity: values tried on the dev queries, for the shipped ranking. It needs
    `feature_extraction.gallery_points` (ours)."""
    colors_weights: tuple[NonNegativeFloat, ...] = (0.0, 1.0)
    """How much shared points lose if their colors differ: with 1, a mean difference of 20 in a and
    b of CIELAB leaves 1 / e of them. Values tried on the dev queries together with
    `points_weights`; use 0 where photos are taken in other light than the catalogue's (ours)."""
    pattern_weights: tuple[NonNegativeFloat, ...] = (0.0, 0.25, 0.5, 1.0)
    """What the agreement of colors between a box and an answer, -1 to 1, adds to their similarity,
    if they share points: values tried on the dev queries. It needs
    `feature_extraction.gallery_points` (ours)."""
    neighbors_weights: tuple[NonNegativeFloat, ...] = (0.0, 0.25, 0.5, 1.0)
    """What an answer's similarity to the best two answers of its box adds to its own similarity:
    values tried on the dev queries, for the shipped ranking. It helps where products have several
    photos (ours)."""
    claims_weight: NonNegativeFloat = 1.0
    """How much score an answer loses if it matches other boxes of the photo as well or better,
    because a photo rarely shows a product twice. Not chosen on dev queries, because the merged
    ranking hardly changes; 0 for nothing (ours)."""
    checked_answers: PositiveInt = 20
    """Number of first answers of a box that are checked by their points (ours)."""
    removed_share: Fraction = 0.2
    """Match scores hold if this share of the customers' products is not in the catalogue: dev boxes
    are judged both with their product in the gallery and without, weighted by it (ours)."""
    max_lost: Fraction = 0.05
    """Largest share of the dev boxes whose product is in the catalogue that may be answered "not in
    the catalogue"; the threshold is the largest that stays within it (ours)."""
    num_report_queries: PositiveInt = 40
    """Queries shown with pictures: the best, the worst and random ones (ours)."""

    @model_validator(mode="after")
    def _some_weight(self) -> "EvaluationConfig":
        if not any(self.fusion_weights):
            raise ValueError("fusion_weights: at least one must be above 0")
        return self

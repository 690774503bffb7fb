"""Fit match scores on the dev queries, and measure their calibration on the test queries.

Every box with a known product is answered twice: by the whole gallery, and by the gallery without
its product, as if a customer showed something that the shop does not have.
"""

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float32, Int64

from product1m.config import EvaluationConfig
from product1m.evaluation.statistics import BootstrapPlan, Interval, bootstrap_ratios
from product1m.retrieval.checking import CLAIMS_WEIGHT, Nearest, block_weights, without_claims
from product1m.retrieval.evidence import OF_POINTS, RIVALS
from product1m.retrieval.match_score import AnswerEvidence, MatchScorer, Probability, logistic
from product1m.retrieval.query_vectors import QueryVectors
from product1m.retrieval.search import Searcher
from product1m.retrieval.shared_points import CountShared
from product1m.telemetry.progress import track

JUDGED_ANSWERS = 5
"""Number of a box's first answers that the fit uses (ours)."""
NUM_FOLDS = 20
"""Number of parts of the dev queries. The threshold is chosen with scores from models that were
fitted without the query's part; with few parts they are worse than the model that ships (ours)."""
CONSTANT = 1e-6
"""Evidence that varies less is constant except for rounding in single precision (ours)."""
NUM_BINS = 10
"""Number of equally wide bins of the reliability curve (ours)."""
BoxProducts = Sequence[Sequence[Collection[str]]]
"""For each box of each query, the labels that are right for it; none if it lies on no product."""
_JUDGMENT = ["query", "rank", "right", "case"]
PRESENT, REMOVED, NOTHING = "present", "removed", "nothing"
"""Cases of a box: its product is in the gallery, was removed from it, or there is no product."""
_CHUNK = 1024


@dataclass(frozen=True)
class MatchSettings:
    """How match scores are fitted; `evaluation` in the configuration explains each value."""

    removed_share: float
    max_lost: float

    @classmethod
    def from_config(cls, config: EvaluationConfig) -> "MatchSettings":
        """The settings in a configuration section."""
        return cls(config.removed_share, config.max_lost)


@dataclass(frozen=True)
class MatchQuality:
    """How well match scores are calibrated, measured on the first answers of the test boxes."""

    scorer: MatchScorer
    figures: Mapping[str, Interval]
    """Shares by the names of `match_figures.FIGURES`, if there are such boxes."""
    reliability: pd.DataFrame
    """One row per bin of match scores: columns low, high, answers (their share), score (their mean)
    and right (share of right ones)."""

    @property
    def calibration_error(self) -> float:
        """Weighted mean over the bins of the distance between match score and share of right."""
        bins = self.reliability
        return float((bins["answers"] * (bins["score"] - bins["right"]).abs()).sum())

    def scalars(self) -> dict[str, float]:
        """Metrics of the step."""
        return {
            "match_score/calibration_error": self.calibration_error,
            "match_score/threshold": self.scorer.threshold,
            **{f"match_score/{name}": figure.mean for name, figure in self.figures.items()},
        }

    def as_dict(self) -> dict[str, Any]:
        """The part of `metrics.json` on match scores."""
        return {
            "calibration_error": self.calibration_error,
            "threshold": self.scorer.threshold,
            **{name: figure.as_dict() for name, figure in self.figures.items()},
            "reliability": self.reliability.to_dict("records"),
        }


def measure_match_scores(
    searcher: Searcher,
    weights: Mapping[str, float],
    dev: tuple[QueryVectors, BoxProducts],
    test: tuple[QueryVectors, BoxProducts],
    settings: MatchSettings,
    plan: BootstrapPlan,
) -> MatchQuality | None:
    """Fit match scores on dev queries and measure them on test queries; None if nothing fits."""
    learned = judge_answers(searcher, dev[0], weights, dev[1])
    judged = judge_answers(searcher, test[0], weights, test[1])
    scorer = fit_match_scorer(learned, settings)
    if scorer is None or not len(judged):
        return None
    return match_quality(judged, scorer, test[0].query_ids, settings.removed_share, plan)


def judge_answers(
    searcher: Searcher,
    queries: QueryVectors,
    weights: Mapping[str, float],
    products: BoxProducts,
) -> pd.DataFrame:
    """The first answers of every box, by the whole gallery and by one without the box's product.

    Args:
        searcher: ranks the gallery.
        queries: queries with their boxes.
        weights: weights of the blocks.
        products: right labels of the queries' boxes.

    Returns:
        One row per answer: query (a row of `queries`), rank from 1, right, case (of the box), and
        one column for each part of the evidence.
    """
    parts: list[dict[str, np.ndarray]] = []
    labels = _labels(searcher)
    counting = queries.counting()
    every = enumerate(track(_boxes(searcher, queries, weights, products), "judging"))
    for _, numbered in itertools.groupby(every, lambda pair: pair[1].query):
        for box, case, nearest in _answered(searcher, weights, counting, list(numbered)):
            positions = nearest.positions[0]
            if len(positions):
                right = np.isin(labels[positions], box.products)
                evidence = searcher.describe(box.vector, box.detector_score, nearest, weights)
                parts.append(_judged(box, case, right, evidence))
    if not parts:
        return pd.DataFrame(columns=_JUDGMENT)
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return pd.DataFrame(columns)


class _Box(NamedTuple):
    """A box with its ranking, deep enough to leave out the box's product."""

    query: int
    vector: Float32[np.ndarray, " D"]
    detector_score: float
    products: Sequence[str]
    in_gallery: bool
    positions: Int64[np.ndarray, " N"]
    similarities: Float32[np.ndarray, " N"]
    right: Bool[np.ndarray, " N"]

    def nearest(self, kept: Bool[np.ndarray, " N"]) -> Nearest:
        """A part of the ranking, ordered only by cosines."""
        return Nearest(self.similarities[kept][None], self.positions[kept][None])

    def cases(self) -> Iterator[tuple[str, Bool[np.ndarray, " N"]]]:
        """Each case with the part of the ranking that answers it."""
        everything = np.ones(len(self.right), bool)
        if not self.products:
            yield NOTHING, everything
            return
        if self.in_gallery:
            yield PRESENT, everything
        yield REMOVED, ~self.right


def _answered(
    searcher: Searcher,
    weights: Mapping[str, float],
    counting: CountShared | None,
    boxes: Sequence[tuple[int, _Box]],
) -> Iterator[tuple[_Box, str, Nearest]]:
    """Each box of a photo, with its position, and each case with the first answers."""

    def answers(place: int, box: _Box, kept: Bool[np.ndarray, " N"]) -> Nearest:
        return searcher.checked(box.nearest(kept), weights, _for_box(counting, place))

    alone = [answers(place, box, np.ones(len(box.right), bool)) for place, box in boxes]
    for number, (place, box) in enumerate(boxes):
        others = [*alone[:number], *alone[number + 1 :]]
        for case, kept in box.cases():
            own = alone[number] if kept.all() else answers(place, box, kept)
            if weights.get(CLAIMS_WEIGHT):
                own = replace(own, scores=without_claims(own, others, weights)).ordered()
            yield box, case, own.first(RIVALS)


def _labels(searcher: Searcher) -> np.ndarray:
    """The first label of every gallery item; empty if it has none."""
    return np.array(list(searcher.gallery.first_labels()), object)


def _for_box(count: CountShared | None, place: int) -> CountShared | None:
    """Counts for a single box, by its position."""
    return None if count is None else lambda _, positions: count(place, positions)


def _judged(
    box: _Box, case: str, right: Bool[np.ndarray, " n"], evidence: AnswerEvidence
) -> dict[str, np.ndarray]:
    count = min(JUDGED_ANSWERS, len(right))
    judgment = {
        "query": np.full(count, box.query),
        "rank": np.arange(1, count + 1),
        "right": right[:count],
        "case": np.full(count, case, object),
    }
    return judgment | {name: values[:count] for name, values in evidence.items()}


def _boxes(
    searcher: Searcher,
    queries: QueryVectors,
    weights: Mapping[str, float],
    products: BoxProducts,
) -> Iterator[_Box]:
    labels = _labels(searcher)
    items_of = pd.Series(labels).value_counts().to_dict()
    by_box = [list(own) for query in products for own in query]
    scores = np.concatenate([boxes.scores for boxes in queries.boxes])
    query_of = np.repeat(np.arange(len(products)), [len(boxes) for boxes in queries.boxes])
    removed = max((sum(items_of.get(label, 0) for label in own) for own in by_box), default=0)
    depth = max(searcher.settings.depth, RIVALS + removed)
    for start in range(0, len(by_box), _CHUNK):
        rows = range(start, min(start + _CHUNK, len(by_box)))
        vectors = queries.box_vectors[rows.start : rows.stop]
        nearest = searcher.nearest(vectors, block_weights(weights), depth)
        for row, similarities, positions in zip(
            rows, nearest.scores, nearest.positions, strict=True
        ):
            used, own = positions >= 0, by_box[row]
            yield _Box(
                int(query_of[row]),
                queries.box_vectors[row],
                float(scores[row]),
                own,
                any(label in items_of for label in own),
                positions[used],
                similarities[used],
                np.isin(labels[positions[used]], own),
            )


def fit_match_scorer(judged: pd.DataFrame, settings: MatchSettings) -> MatchScorer | None:
    """Fit logistic functions of the evidence, and a threshold, to judged answers of dev queries.

    One gives the probability that an answer is right, the other, from first answers, that the box's
    product is in the gallery. `removed_share` sets the weight of boxes whose product was removed.
    The threshold is the largest that loses at most `max_lost` of the boxes whose product is in the
    gallery. Returns None if all answers are right, or all are wrong, so that nothing can be fitted.
    """
    scorer = _fit_scorer(judged, settings)
    if scorer is None or not set(OF_POINTS) & set(scorer.coefficients):
        return scorer
    without_points = _fit_scorer(judged.drop(columns=list(OF_POINTS)), settings)
    return scorer.model_copy(update={"without_points": without_points})


def _fit_scorer(judged: pd.DataFrame, settings: MatchSettings) -> MatchScorer | None:
    if not len(judged):
        return None
    names = [str(name) for name in judged if name not in _JUDGMENT]
    answers = _Cases(
        judged[names].to_numpy(np.float64),
        judged["right"].to_numpy(bool),
        case_weights(judged["case"], settings.removed_share),
        judged["query"].to_numpy(),
    )
    first = (judged["rank"] == 1).to_numpy()
    present = (judged["case"] == PRESENT).to_numpy()[first]
    shares = np.where(present, 1 - settings.removed_share, settings.removed_share)
    first_answers = answers.select(first)._replace(holds=present, weights=shares)
    fitted, presence = answers.fit(), first_answers.fit()
    if fitted is None or not present.any():
        return None
    if presence:
        unseen = first_answers.unseen_scores(presence)
    else:
        unseen = answers.unseen_scores(fitted)[first]
    ordered = np.sort(unseen[present])
    threshold = ordered[min(int(settings.max_lost * len(ordered)), len(ordered) - 1)]
    return MatchScorer(
        **fitted.named(names).model_dump(),
        presence=presence.named(names) if presence else None,
        threshold=float(threshold),
    )


def case_weights(cases: pd.Series, removed_share: float) -> Float[np.ndarray, " n"]:
    """Weight of each case, if this share of the products is not in the catalogue."""
    shares = {PRESENT: 1 - removed_share, REMOVED: removed_share, NOTHING: 1.0}
    return cases.map(shares).to_numpy(np.float64)


class _Logistic(NamedTuple):
    factors: Float[np.ndarray, " K"]
    intercept: float

    def scores(self, evidence: Float[np.ndarray, "n K"]) -> Float[np.ndarray, " n"]:
        return logistic(evidence @ self.factors + self.intercept)

    def named(self, names: Sequence[str]) -> Probability:
        factors = dict(zip(names, self.factors.tolist(), strict=True))
        return Probability(coefficients=factors, intercept=self.intercept)


class _Cases(NamedTuple):
    """What a logistic function is fitted to."""

    evidence: Float[np.ndarray, "n K"]
    holds: Bool[np.ndarray, " n"]
    weights: Float[np.ndarray, " n"]
    queries: Int64[np.ndarray, " n"]

    def select(self, rows: np.ndarray) -> "_Cases":
        return _Cases(*(values[rows] for values in self))

    def fit(self) -> _Logistic | None:
        """None if it holds in all cases with a weight, or in none."""
        from sklearn.linear_model import LogisticRegression

        if len(np.unique(self.holds[self.weights > 0])) < 2:
            return None
        mean, deviation = self.evidence.mean(axis=0), self.evidence.std(axis=0)
        deviation[deviation < CONSTANT] = 1.0
        model = LogisticRegression(max_iter=1000)
        model.fit((self.evidence - mean) / deviation, self.holds, sample_weight=self.weights)
        factors = model.coef_[0] / deviation
        return _Logistic(factors, float(model.intercept_[0] - mean @ factors))

    def unseen_scores(self, fitted: _Logistic) -> Float[np.ndarray, " n"]:
        """Scores from models fitted without the query's fold; from `fitted` if not possible."""
        from sklearn.model_selection import GroupKFold

        scores = fitted.scores(self.evidence)
        num_folds = min(NUM_FOLDS, len(np.unique(self.queries)))
        if num_folds < 2:
            return scores
        for train, held_out in GroupKFold(num_folds).split(*self[:2], self.queries):
            other = self.select(train).fit()
            if other is not None:
                scores[held_out] = other.scores(self.evidence[held_out])
        return scores


def match_quality(
    judged: pd.DataFrame,
    scorer: MatchScorer,
    query_ids: Sequence[str],
    removed_share: float,
    plan: BootstrapPlan,
) -> MatchQuality:
    """Measure match scores on judged answers; `plan` defines the resamples for intervals.

    Column `query` of `judged` is a position in `query_ids`.
    """
    first = judged[judged["rank"] == 1].reset_index(drop=True)
    evidence = {name: first[name].to_numpy() for name in scorer.coefficients}
    scores, rejected = scorer.scores(evidence), scorer.missing(evidence)
    right = first["right"].to_numpy(bool)
    case = {name: (first["case"] == name).to_numpy() for name in (PRESENT, REMOVED, NOTHING)}
    weights = case_weights(first["case"], removed_share)
    shares = {
        "absent_detected": (rejected & case[REMOVED], case[REMOVED]),
        "lost": (rejected & case[PRESENT], case[PRESENT]),
        "lost_right": (rejected & right, right),
        "nothing_detected": (rejected & case[NOTHING], case[NOTHING]),
        "accepted_right": (weights * (right & ~rejected), weights * ~rejected),
    }
    columns = {
        f"{name}/{part}": np.bincount(first["query"], values.astype(float), len(query_ids))
        for name, pair in shares.items()
        for part, values in zip(("over", "under"), pair, strict=True)
    }
    ratios = {name: (f"{name}/over", f"{name}/under") for name in shares}
    figures = bootstrap_ratios(pd.DataFrame(columns, pd.Index(query_ids)), ratios, plan)
    return MatchQuality(scorer, figures, reliability(scores, right, weights))


def reliability(
    scores: Float[np.ndarray, " n"], right: Bool[np.ndarray, " n"], weights: Float[np.ndarray, " n"]
) -> pd.DataFrame:
    """The reliability curve of answers, see `MatchQuality.reliability`; empty bins are left out."""
    bins = np.minimum((scores * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    table = pd.DataFrame({"bin": bins, "weight": weights})
    table["score"], table["right"] = scores * weights, right * weights
    sums = table[table["weight"] > 0].groupby("bin").sum()
    low = sums.index.to_numpy() / NUM_BINS
    return pd.DataFrame(
        {
            "low": low,
            "high": low + 1 / NUM_BINS,
            "answers": (sums["weight"] / sums["weight"].sum()).to_numpy(),
            "score": (sums["score"] / sums["weight"]).to_numpy(),
            "right": (sums["right"] / sums["weight"]).to_numpy(),
        }
    )

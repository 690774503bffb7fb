"""Match scores: the probability that an answer is the product in its box (ours).

Users cannot interpret a similarity, and its range changes with every training. Therefore a logistic
function turns the evidence for an answer into a probability. Evaluation fits it on the dev queries,
with and without their products in the gallery, so that a missing product gets low match scores.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, FiniteFloat

from product1m.config.section import Fraction

Evidence = Mapping[str, Float[np.ndarray, " n"]]
"""Evidence for some answers: one number per answer for each name."""


def logistic(logits: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The logistic function, 0 to 1."""
    # Beyond ±30 it is 0 or 1, and a larger exponent would overflow.
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -30, 30))))


class MatchScorer(BaseModel):
    """The fitted logistic function; part of a registered model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    coefficients: Mapping[str, FiniteFloat]
    """Factor of each part of the evidence."""
    intercept: FiniteFloat
    threshold: Fraction
    """If the first answer of a box has a lower match score, the box is "not in the catalogue"."""

    def scores(self, evidence: Evidence) -> Float[np.ndarray, " n"]:
        """Match scores, 0 to 1, of answers with evidence from `evidence.describe_answers`."""
        parts = [factor * evidence[name] for name, factor in self.coefficients.items()]
        return logistic(np.sum(parts, axis=0) + self.intercept)

    def in_catalogue(self, scores: Sequence[float]) -> bool:
        """Whether a box's product is in the catalogue, by the match scores of its answers."""
        return scores[0] >= self.threshold

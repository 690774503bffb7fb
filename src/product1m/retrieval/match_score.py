"""Match scores: how probable it is that an answer is the product in its box (ours).

A similarity means nothing to a person, and its range changes with every training. What is known
about an answer goes through a logistic function that evaluation fits on the dev queries, also with
their products taken out of the gallery, so that a missing product gets low match scores.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, FiniteFloat

from product1m.config.section import Fraction

Evidence = Mapping[str, Float[np.ndarray, " n"]]
"""What is known about some answers: one number per answer under each name."""


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
    """A box whose first answer has a lower match score is "not in the catalogue"."""

    def scores(self, evidence: Evidence) -> Float[np.ndarray, " n"]:
        """Match scores, 0 to 1, of answers described as `evidence.describe_answers` does."""
        parts = [factor * evidence[name] for name, factor in self.coefficients.items()]
        return logistic(np.sum(parts, axis=0) + self.intercept)

    def in_catalogue(self, scores: Sequence[float]) -> bool:
        """Whether the match scores of a box's answers say that its product is in the catalogue."""
        return scores[0] >= self.threshold

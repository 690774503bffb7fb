"""Match scores: the probability that an answer is the product in its box (ours).

Users cannot interpret a similarity, and its range changes with every training. Therefore a logistic
function turns the evidence for an answer into a probability. A second one, of the evidence for the
first answer, gives the probability that the catalogue has the box's product at all. Evaluation fits
both on the dev queries, with and without their products in the gallery.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict, FiniteFloat

from product1m.config.section import Fraction

AnswerEvidence = Mapping[str, Float[np.ndarray, " n"]]
"""Evidence for some answers: one number per answer for each name."""


def logistic(logits: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The logistic function, 0 to 1."""
    # Beyond ±30 it is 0 or 1, and a larger exponent would overflow.
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -30, 30))))


class Probability(BaseModel):
    """A fitted logistic function of evidence."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    coefficients: Mapping[str, FiniteFloat]
    """Factor of each part of the evidence."""
    intercept: FiniteFloat

    def scores(self, evidence: AnswerEvidence) -> Float[np.ndarray, " n"]:
        """Probabilities, 0 to 1, for answers with evidence from `evidence.describe_answers`."""
        parts = [factor * evidence[name] for name, factor in self.coefficients.items()]
        return logistic(np.sum(parts, axis=0) + self.intercept)


class MatchScorer(Probability):
    """Gives match scores; part of a registered model."""

    presence: Probability | None = None
    """Probability that the catalogue has a box's product, by the evidence for the first answer;
    None: the first answer's match score is used instead."""
    threshold: Fraction
    """With a lower probability, a box is "not in the catalogue"."""
    without_points: "MatchScorer | None" = None
    """For a copy of the model whose gallery has no points; None if points are no evidence."""

    def missing(self, evidence: AnswerEvidence) -> Bool[np.ndarray, " n"]:
        """Whether each answer, as the first of a box, makes the box "not in the catalogue"."""
        return np.asarray((self.presence or self).scores(evidence) < self.threshold)

    def in_catalogue(self, evidence: AnswerEvidence) -> bool | None:
        """Whether the catalogue has the product of a box; None if the box has no answers."""
        missing = self.missing(evidence)
        return not missing[0] if len(missing) else None

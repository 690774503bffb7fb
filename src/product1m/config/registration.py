"""Settings of `registration`."""

from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt

from product1m.config.section import Fraction, StepConfig


class RegistrationConfig(StepConfig):
    """Register the candidate with its gate and its page."""

    candidate_model: str = "product1m-candidate"
    """Registered model that the pipeline writes to (ours)."""
    champion_model: str = "product1m"
    """Registered model that a reviewer promotes to (ours)."""
    min_map_at_10: Fraction = 0.0
    """Minimum strict mAP@10 of the shipped ranking (ours)."""
    min_index_recall: Fraction = 0.95
    """Minimum recall@100 of the index against exact search (ours)."""
    min_baseline_lead: Annotated[float, Field(ge=-1, le=1)] = 0.0
    """Minimum lead in strict mAP@10 over each baseline, for the whole paired interval (ours)."""
    min_served_agreement: Fraction = 0.9
    """Minimum share of the evaluated first ten answers that the registered model finds too
    (ours)."""
    max_map_loss: Fraction = 0.01
    """Largest loss of strict mAP@10 against the champion, for the whole interval (ours)."""
    min_box_precision: Fraction = 0.0
    """Minimum share of the shown boxes that lie on a product, if the queries' true boxes are known
    (ours)."""
    max_found_loss: Fraction = 0.03
    """Largest loss of the share of products found against the champion, for the whole interval, if
    the queries' true boxes and their labels are known; more where `chance_map_loss` allows more
    (ours)."""
    chance_map_loss: Annotated[float, Field(ge=0, le=1)] = 0.3
    """With few queries, the allowed loss is this value divided by the square root of the number of
    groups of queries with the same labels, if that is more than `max_map_loss`: 0.038 for the 61
    groups of the sample, 0.012 for the 589 of the paper's test list. An equally good candidate then
    passes with probability 0.8; 0 switches it off (ours)."""
    max_slice_loss: Fraction = 0.05
    """The gate fails if the whole interval of a slice shows a larger loss against the champion
    (ours)."""
    min_slice_queries: PositiveInt = 20
    """Slices with fewer queries do not count in the gate (ours)."""
    max_leaked_photos: Fraction = 0.0
    """Maximum number of train and gallery photos that are also query photos, relative to the number
    of queries (ours)."""
    max_dev_photos_in_test: Fraction = 0.05
    """Maximum share of test queries whose photo is also a dev query's photo; 0.04 in the paper's
    lists (ours)."""
    max_quarantine_share: Fraction = 0.05
    """Maximum share of quarantined items in any list (ours)."""
    allowed_licenses: tuple[str, ...] = ()
    """Licenses that pretrained weights may have, such as `["Apache-2.0", "MIT"]`; then an unknown
    license fails the gate too; empty allows all (ours)."""
    num_pictured_queries: PositiveInt = 10
    """Number of queries with the largest losses that the page of a version shows as pictures
    (ours)."""
    thumbnail_side_px: NonNegativeInt = 96
    """Longer side of the gallery photos that a version stores for `product1m search`, about 2 KB
    each; 0 stores none (ours)."""
    sample_data: bool = False
    """Treat the data as a sample even without the mark of `make-sample`: the version is marked as a
    sample and cannot be promoted (ours)."""

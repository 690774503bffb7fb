"""Settings of `catalogue`."""

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from product1m.config.section import Fraction, StepConfig


class CatalogueConfig(StepConfig):
    """Refresh the catalogue: the index that is served, built with a promoted model."""

    catalogue_model: str = "product1m-catalogue"
    """Registered model whose versions are catalogues (ours)."""
    cache: str = ""
    """Folder or `s3://` prefix that keeps features and vectors by photo digest and model digest;
    empty: below `storage.root`, or `$PRODUCT1M_WORK` (ours)."""
    factory: str = ""
    """FAISS factory string, of a kind that changes in place: an IVF with `Flat` or `SQ8` codes, or
    `Flat` or `SQ8` alone; empty: the model's own (ours)."""
    probes: NonNegativeInt = 0
    """Minimum number of cells visited per query; 0: the model's own number (ours)."""
    min_recall: Fraction = 0.99
    """Minimum recall@100 against exact search: more cells are visited until it is reached. An index
    that stays below it is rebuilt, and if that does not help, it is not served (ours)."""
    max_clipped_share: Fraction = 0.01
    """Largest share of new vectors outside the range of the index's codes; above it the index is
    rebuilt (ours)."""
    num_canaries: PositiveInt = 50
    """Number of canaries: items whose vectors are used as queries after every refresh (ours)."""
    canary_depth: PositiveInt = 10
    """Number of answers among which a canary must find the answer that was first before the refresh
    (ours)."""
    max_shrinkage: Fraction = 0.2
    """Largest share of the items that one refresh may remove (ours)."""
    max_growth: NonNegativeInt = 5
    """Maximum number of items that one refresh may add, as a multiple of those before (ours)."""
    max_new_share: Fraction = 0.1
    """Share of items that the model's own gallery lacks, above which the catalogue has drifted from
    the model (ours)."""
    max_distance: PositiveFloat = 1.25
    """Largest distance of new photos or titles from the model's own gallery, as a multiple of the
    distance between its items; above it the catalogue has drifted (ours)."""
    min_canaries_found: Fraction = 0.98
    """Share of the canaries that must find what they found before; below it the catalogue has
    drifted (ours)."""
    queries: str = ""
    """Folder where a server keeps queries (`serving.keep_queries`), of which the newest 500 count;
    empty: none (ours)."""
    min_match_score: Fraction = 0.3
    """Mean match score of the first answers of these queries, below which the catalogue has drifted
    (ours)."""
    thumbnail_side_px: NonNegativeInt = 96
    """Longer side of the small photos that answers are shown with; 0 stores none (ours)."""

"""Settings of `indexing`."""

from typing import Literal

from pydantic import PositiveInt

from product1m.config.section import Fraction, StepConfig


class IndexingConfig(StepConfig):
    """Embed gallery items as blocks and build a FAISS index."""

    streams: Literal["sum", "concatenation"] = "sum"
    """How the two single-stream embeddings form one block; their product, the first author's
    choice, is kept beside the index for comparison (ours: sum, as OpenBG-Align does)."""
    text_dim: PositiveInt = 256
    """Width of the TF-IDF block of character n-grams after reduction (ours)."""
    text_max_ngram: PositiveInt = 3
    """Longest character n-gram (ours)."""
    text_max_terms: PositiveInt = 100_000
    """Maximum number of n-grams of a block, the most frequent ones of the gallery (ours)."""
    ocr_dim: PositiveInt = 256
    """Width of the block of what is printed on packs after reduction; the block exists if the
    photos were read, `feature_extraction.ocr` (ours)."""
    ocr_max_ngram: PositiveInt = 3
    """Longest character n-gram of the block `ocr` (ours)."""
    adapt_crops: bool = True
    """Use the linear map of crop vectors, if one was learned, `feature_extraction.crop_adaptation`
    (ours)."""
    max_block_dim: PositiveInt = 256
    """Blocks wider than this are reduced to the directions in which the gallery's items differ most
    (ours, decision 17)."""
    num_training_items: PositiveInt = 65_536
    """Gallery items, drawn at random, that the blocks and the cells of the index are fitted on;
    this limits memory (ours)."""
    batch_size: PositiveInt = 256
    """Gallery items embedded and added at the same time (ours)."""
    factory: str = "IVF1024,SQ8"
    """FAISS factory string. Use about 4 √items cells: the paper's gallery has 40,033 items. One
    byte a dimension costs 0.003 of recall@100. For a million items
    `RR1024,IVF4096,PQ256x4fs,Refine(SQ8)` is faster: half a byte for four dimensions chooses what
    bytes compare; it cannot be changed in place (ours, decision 17)."""
    probes: PositiveInt = 64
    """Minimum number of cells visited per query (IVF), or breadth of the search (HNSW); more are
    visited until `min_recall` is reached (ours)."""
    min_recall: Fraction = 0.99
    """Recall@100 against exact search that the filled index is set to reach; 0 keeps `probes`
    (ours, decision 17)."""
    num_recall_queries: PositiveInt = 1000
    """Gallery items used to measure recall@100 against exact search (ours)."""

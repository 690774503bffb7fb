"""The search engine: embedding blocks, index, boxes of a query, merging, search."""

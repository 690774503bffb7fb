"""Embedding blocks, index, instances, merging, metrics, baselines and the report."""

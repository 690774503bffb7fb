"""Looks at a cluster and reports whether a run would work there; `python -m pipelines doctor`."""

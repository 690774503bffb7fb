"""Runs on a cluster everything that the documents promise; `python -m pipelines check-cluster`."""

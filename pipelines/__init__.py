"""The training pipeline: its graph, its images and resources, and the ways to run it."""

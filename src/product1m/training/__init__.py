"""One training loop for both trained models: optimizer, schedule, checkpoints, ranks."""

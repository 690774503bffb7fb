"""Cut products out of their photos and paste them into scenes; no torch."""

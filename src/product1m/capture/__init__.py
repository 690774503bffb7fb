"""CAPTURE: text and visual streams, cross-transformers, joint transformer, heads."""

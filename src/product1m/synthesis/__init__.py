"""Cutting products out of their photos and pasting them into scenes."""

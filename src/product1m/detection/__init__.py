"""Backbone, boxes, region features, points and printed lines of photos."""

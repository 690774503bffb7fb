"""Backbone, region proposal network and region features; the only place that imports torchvision."""

"""Backbone, region proposal network, region features; the only place that imports torchvision."""

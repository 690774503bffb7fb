"""Backbone, region proposal network, region features."""

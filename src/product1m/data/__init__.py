"""Product lists, photos, boxes, item tables and region features; no torch."""

"""Product lists, photos, item tables, region features, tokens and batches."""

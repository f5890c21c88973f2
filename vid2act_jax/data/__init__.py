"""Episodes on disk and in memory: schema, datasets, replay, prefetching."""

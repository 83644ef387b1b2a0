"""Tar shards: members, samples, an index."""

"""Captioned pictures from where they are: folders, tables, parquet, tar shards, the hub."""

from latentdiff.data.sources.find import open_source as open_source
from latentdiff.data.sources.source_config import SourceConfig as SourceConfig

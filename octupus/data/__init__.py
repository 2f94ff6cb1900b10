"""From rows of data sets to packed batches: files and sources in, memory-mapped shards between, numpy batches out."""

from octupus.data.batches import IGNORE, Batch, Batches, collate, order
from octupus.data.pack import pack
from octupus.data.shards import Manifest, PackedRow, Shards, ShardWriter

__all__ = [
    "IGNORE",
    "Batch",
    "Batches",
    "Manifest",
    "PackedRow",
    "ShardWriter",
    "Shards",
    "collate",
    "order",
    "pack",
]

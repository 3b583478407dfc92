"""A memory over many processes and machines: one shard of the facts in each; see docs/cluster.md."""

"""Measurements that take long: each is a command that writes a small JSON file."""

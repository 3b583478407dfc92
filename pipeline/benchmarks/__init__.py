<<<<<<< HEAD
"""Measurements that take long: each is a command that writes a small JSON file."""
=======
"""Measurements that take long: each is a command that writes a small JSON file; none is a stage."""
>>>>>>> plumbing

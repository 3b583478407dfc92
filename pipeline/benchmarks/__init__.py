<<<<<<< HEAD
"""Measurements that take long: each is a command that writes a small JSON file."""
=======
"""Commands that measure one part against published figures; none is a stage of the DAG."""
>>>>>>> embed

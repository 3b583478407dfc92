"""The splits that methods are asked, and when."""

BEFORE = ("valid", "seen", "unseen", "unseen_relation", "two_hop", "unanswerable", "checked", "unchanged")
"""Splits that are asked on the base snapshot; `checked` is that of `pipeline.evaluation.checked`."""

AFTER = ("updated", "added", "unchanged_after")
"""Splits that are asked once the last snapshot's changes are applied.

`unchanged_after` asks the questions of `unchanged` again: an update must not harm what it does not touch.
"""

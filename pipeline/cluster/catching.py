"""How a copy of a shard catches up with another one."""

from collections.abc import Callable
from typing import Any

from pipeline.cluster.messages import Standing

PIECE = 1 << 24
"""Bytes that are copied at once."""

Calling = Callable[..., Any]
"""Asks a copy for something and returns the answer."""


def bring_up(own: Calling, standing: Standing, other: Calling, held: Standing) -> None:
    """Let a copy hold what another one does, which nobody changes meanwhile.

    Where it holds the beginning of it, it carries out the records that it lacks; else it is copied whole.

    Args:
        own: asks the copy.
        standing: where it stands.
        other: asks the other one.
        held: where that stands.

    Raises:
        GoneError: one of them doesn't answer any longer.
        UserError: a disk fails.
    """
    if begins_as(own, standing, other, held):
        missing = other("since", standing.version)
        if missing is not None:
            own("follow", 0, standing.version, [payload for _, payload in missing])
            return
    files = other("files")
    own("empty")
    for name, size in files.items():
        for start in range(0, max(size, 1), PIECE):
            own("put", name, other("piece", name, start, PIECE))
    own("filled")


def begins_as(own: Calling, standing: Standing, other: Calling, held: Standing) -> bool:
    """Return whether what another copy holds begins with what a copy holds; arguments as of `bring_up`.

    In one term, all copies take the same records in the same order. A copy of an earlier term may hold one
    record at its end that the others never got, and that was never acknowledged.
    """
    if standing.version > held.version:
        return False
    if standing.term == held.term:
        return standing.term > 0 or (standing.version, standing.facts) == (held.version, held.facts)
    last = own("last")
    if standing.term == 0 or last is None:
        return False
    since = other("since", last[0])
    return bool(since) and bool(since[0] == last)

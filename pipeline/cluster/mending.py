"""Lets copies in again that came back, beside everything else."""

import logging
import weakref
from collections.abc import Sequence
from threading import Thread
from time import sleep

from pipeline.cluster.messages import FencedError
from pipeline.cluster.shard import Shard
from pipeline.config import UserError

EVERY = 2.0
"""Seconds between two looks."""

log = logging.getLogger(__name__)


class Mending(Thread):
    """Looks after shards that are open for writing, as long as someone holds them.

    Args:
        shards: to be looked after.
        every: seconds between two looks.
    """

    def __init__(self, shards: Sequence[Shard], every: float = EVERY) -> None:
        super().__init__(name="mend", daemon=True)
        self._shards = [weakref.ref(shard) for shard in shards]
        self._every = every
        self.start()

    def run(self) -> None:
        """Look until the shards are gone, or another process writes to them."""
        while True:
            sleep(self._every)
            for reference in self._shards:
                shard = reference()
                if shard is None:
                    return
                try:
                    if shard.doubted or len(shard.members) < len(shard.copies):
                        shard.mend()
                except FencedError:
                    return
                except UserError as error:
                    log.warning("%s", error)
                del shard

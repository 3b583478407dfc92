"""What the routes of the server share: one system, one memory that is open for writing, one engine."""

from dataclasses import dataclass, field
from threading import RLock

from pipeline.cluster.actors import FOLDER, Address
from pipeline.cluster.sharded import ShardedMemory
from pipeline.memory.durable import DurableMemory
from pipeline.memory.statements import Editor
from pipeline.serve.engine import Engine
from pipeline.serve.metrics import Metrics
from pipeline.serve.security import Token, token
from pipeline.serve.session import Session
from pipeline.serve.settings import Serve


@dataclass
class Service:
    """A session whose memory is open for writing, and the engine that answers from it."""

    settings: Serve
    session: Session
    memory: DurableMemory
    """Or one in shards, which is asked for the same (`pipeline.memory.interface.Knowledge`) and has a folder.
    Its own locks let changes follow each other; searches don't wait for them."""
    editor: Editor
    """What names mean. Hold `naming` while you use it: it remembers what it has seen."""
    engine: Engine
    token: Token
    """What a client must send to write."""
    naming: RLock = field(default_factory=RLock)

    @classmethod
    def open(cls, settings: Serve) -> "Service":
        """Return the service of `settings`, whose engine has begun.

        Raises:
            UserError: the adapter, the facts or the memory are missing or damaged, another process writes to
                the memory, or other machines could reach a server without a token of yours.
        """
        address = Address.parsed(str(settings.memory))
        kept = settings.memory if address is None else FOLDER / address.name
        place = kept.with_name(f"{kept.name}.token")
        writing = token(settings.host, settings.token_file, place)
        session = Session.open(
            settings.adapter, settings.memory, settings.facts, write=True, sync=settings.sync
        )
        memory = session.system.memory
        assert isinstance(memory, DurableMemory | ShardedMemory)
        metrics = Metrics()
        engine = Engine(session, settings, metrics)
        metrics.watch("waiting", "Questions that wait for a place.", lambda: engine.waiting)
        metrics.watch("running", "Questions that are being answered.", lambda: engine.running)
        metrics.watch("facts", "Facts that the memory holds.", lambda: len(memory))
        metrics.watch("version", "Grows with every change of the memory.", lambda: memory.version)
        return cls(settings, session, memory, session.editor, engine, writing)

    @property
    def metrics(self) -> Metrics:
        """Where everything is counted."""
        return self.engine.metrics

    @property
    def version(self) -> int:
        """A number that grows with every change that was acknowledged."""
        return self.memory.version

    def close(self) -> None:
        """Let running answers end, turn others away, and let other processes write to the memory."""
        self.engine.close()
        self.session.close()

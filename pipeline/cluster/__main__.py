"""Starts and looks after a memory in shards: `python -m pipeline.cluster start facts --folder /data/facts`.

It runs on the Ray cluster that this machine is part of, or on the one that `--ray` names. The layout and the
encoder are those of params.yaml.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from pipeline.cluster import actors
from pipeline.cluster.actors import Address, Plan, Remote, name_of, opened, running
from pipeline.cluster.local import fill
from pipeline.cluster.messages import GoneError
from pipeline.config import ConfigError, UserError
from pipeline.memory.__main__ import chosen
from pipeline.memory.encoder import TextEncoder
from pipeline.memory.journal import POLICIES
from pipeline.memory.settings import Memory
from pipeline.memory.store import KnowledgeMemory
from pipeline.ray import connected
from pipeline.weights import Encoder


def options() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.cluster", description=(__doc__ or "").partition("\n\n")[2]
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("name", help="of the memory")
    shared.add_argument("--ray", default="auto", metavar="HOST:PORT", help="head of the Ray cluster")
    started = commands.add_parser("start", parents=[shared], help="start the copies that don't run")
    started.add_argument("--folder", type=Path, required=True, help="for the copies, on every machine")
    started.add_argument("--shards", type=int, default=1, help="how many (default: 1); it stays")
    started.add_argument("--replication", type=int, default=2, help="copies of each shard (default: 2)")
    started.add_argument(
        "--sync", choices=POLICIES, default="always", help="when a change is on disk (default: always)"
    )
    filled = commands.add_parser("split", help="write a memory to the folders of the copies, before `start`")
    filled.add_argument("memory", type=Path, help="folder of the memory, such as models/index")
    filled.add_argument("--folder", type=Path, required=True, help="for the copies; new")
    filled.add_argument("--shards", type=int, default=1, help="how many (default: 1)")
    filled.add_argument("--replication", type=int, default=2, help="copies of each shard (default: 2)")
    commands.add_parser("status", parents=[shared], help="say where every copy stands")
    mended = commands.add_parser(
        "mend", parents=[shared], help="let copies in that came back; whoever has it open may write no more"
    )
    mended.add_argument(
        "--accept", action="store_true", help="go on though a copy is missing that may know of later changes"
    )
    commands.add_parser("stop", parents=[shared], help="end every copy; their folders stay")
    return parser


def run(words: Sequence[str], settings: Memory, encoder: Encoder) -> dict[str, Any]:
    """Carry out a command and return what it did.

    Raises:
        UserError: something in the words can't be used, or the cluster isn't there.
    """
    given = options().parse_args(words)
    texts = TextEncoder(encoder, "cuda" if torch.cuda.is_available() else "cpu")
    for name in ("shards", "replication"):
        if getattr(given, name, 1) < 1:
            raise UserError(f"--{name} must be at least 1, not {getattr(given, name)}")
    if given.command == "split":
        memory = KnowledgeMemory.open(given.memory, settings, texts)
        return {"facts": fill(memory, given.folder, given.shards, given.replication)}
    connected(given.ray)
    if given.command == "start":
        plan = Plan(
            name=given.name,
            folder=given.folder.resolve(),
            shards=given.shards,
            replication=given.replication,
            settings=settings,
            encoder=texts.name,
            dimension=texts.dimension,
            sync=given.sync,
        )
        return {"running": actors.start(plan)}
    if given.command == "stop":
        return {"ended": actors.stop(given.name)}
    if given.command == "mend":
        memory_there = opened(Address(given.name, given.ray), settings, texts, accept=given.accept)
        return {"members": {shard.number: shard.members for shard in memory_there.shards}}
    return {"copies": _standing(given.name)}


def _standing(name: str) -> dict[str, Any]:
    """Return where every copy stands, None for one that doesn't answer."""
    found: dict[str, Any] = {}
    for shard, copies in sorted(running(name).items()):
        for copy in copies:
            one = name_of(name, shard, copy)
            try:
                found[one] = Remote(one).begin("standing").result()._asdict()
            except GoneError:
                found[one] = None
    return found


def main(words: Iterable[str]) -> None:
    """Print what the command did as JSON, and turn what the user can put right into one line."""
    try:
        done = run(list(words), chosen(Memory, "memory"), chosen(Encoder, "encoder"))
        sys.stdout.write(json.dumps(done, indent=1) + "\n")
    except (ConfigError, UserError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])

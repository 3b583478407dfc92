"""Builds a base out of a stream of facts that need not fit into memory."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from pipeline.config import UserError
from pipeline.memory.ahead import ahead
from pipeline.memory.base import KIND, Base
from pipeline.memory.disk import remove, sync_folder
from pipeline.memory.flat import Flat, FlatWriter
from pipeline.memory.offsets import OffsetsWriter
from pipeline.memory.sorting import Numbers, Sorter
from pipeline.memory.strings import Keys, KeysWriter, StringsWriter

Named = Iterable[tuple[Sequence[str], Sequence[str]]]
"""Blocks of stable keys and as many texts; their rows are counted from 0."""
Facts = Iterable[Int[np.ndarray, "n 3"]]
"""Blocks of rows of head, relation and tail, in any order."""
Told = Callable[[str, int], None]
"""Is told what goes on, and how many more names or facts went through it."""

MEMORY = 1 << 30
"""Bytes to sort in unless told otherwise."""


def build(
    folder: Path,
    entities: Named,
    relations: Named,
    facts: Facts,
    memory: int = MEMORY,
    told: Told | None = None,
    more: Callable[[FlatWriter], None] | None = None,
    workers: int = 1,
) -> tuple[Base, int]:
    """Write a base to `folder`, which counts once it is there whole; nothing is left where it can't be.

    Beside `folder` it needs room for 8 bytes a fact, which it frees while the base grows by about 6. No two
    builds may write to one folder at once.

    Args:
        folder: must not be there yet.
        entities: keys, which are all different, and labels.
        relations: keys, which are all different, and nouns.
        facts: a fact may come several times.
        memory: bytes to sort in; what is held beside them does not grow with the facts.
        told: hears how far it is.
        more: writes further arrays: vectors of the names.
        workers: threads that sort and pack; whatever they are, the base is the same.

    Returns:
        The base, and how many facts came again.

    Raises:
        UserError: the folder is there, there is no room, a key comes twice or a fact names what there isn't.
    """
    if folder.exists():
        raise UserError(f"{folder}: is there already; name a new folder, or remove it")
    told = told or (lambda what, more: None)
    part = folder.with_name(f".{folder.name}.part")
    try:
        remove(part)  # of a build that was killed
        with FlatWriter(part / "base", KIND) as files:
            sizes, clashes = [], {}
            for kind, named in (("entities", entities), ("relations", relations)):
                with Sorter(part / "sorted", KeysWriter.LARGEST, memory, workers) as sorter:
                    size, clashes[f"{kind}.keys"] = _names(files, kind, named, sorter, told)
                    sizes.append(size)
            if more is not None:
                more(files)
            again = _facts(files, facts, (sizes[0], sizes[1]), part / "sorted", memory, told, workers)
        opened = Flat.open(part / "base", KIND)
        for name, rows in clashes.items():
            if (key := Keys(opened, name).twice(rows)) is not None:
                raise UserError(f"{name}: {key!r} comes twice; give every one a key of its own")
        (part / "base").rename(folder)
        sync_folder(folder.parent)
    except OSError as error:
        raise UserError(
            f"{folder}: can't be written ({error}), so nothing of it is; free some space and try again"
        ) from error
    finally:
        remove(part)
    return Base.open(folder), again


def _names(
    files: FlatWriter, kind: str, named: Named, sorter: Sorter, told: Told
) -> tuple[int, Int[np.ndarray, " n"]]:
    """Write keys and texts; return how many there are, and the rows whose keys may be alike."""
    keys, texts = KeysWriter(files, f"{kind}.keys", sorter), StringsWriter(files, f"{kind}.texts")
    size = 0
    for some, of_them in named:
        if len(some) != len(of_them):
            raise ValueError(f"{len(some)} keys of {kind} come with {len(of_them)} texts")
        keys.append(some)
        texts.append(of_them)
        size += len(some)
        told(f"names of {kind}", len(some))
    texts.close()
    return size, keys.close()


def _facts(
    files: FlatWriter,
    facts: Facts,
    sizes: tuple[int, int],
    scratch: Path,
    memory: int,
    told: Told,
    workers: int,
) -> int:
    """Write the facts in order; return how many came again."""
    entities, relations = sizes
    packing = Packing(entities, relations)
    tails, codes = files.column("facts.tails", np.uint32), files.column("facts.relations", packing.code)
    heads = OffsetsWriter(files, "heads")
    with Sorter(scratch, packing.largest, memory, workers) as sorter:
        for numbers in ahead(packing.packed, facts, workers):
            sorter.add(numbers)
            told("facts taken", len(numbers))
        for head, relation, tail in ahead(packing.unpacked, sorter.merged(), workers):
            heads.count(head)
            codes.append(relation)
            tails.append(tail)
            told("facts written", len(head))
        heads.fill(entities)
        heads.close()
        return sorter.taken - tails.rows


class Packing:
    """Facts as numbers of 64 bits, in the order of head, relation and tail.

    Args:
        entities: how many there are.
        relations: how many there are.

    Raises:
        UserError: there are so many that 64 bits don't hold a fact (10⁸ and 1,000 do fit).
    """

    def __init__(self, entities: int, relations: int) -> None:
        self._sizes = entities, relations, entities
        self._tail = np.uint64(max(0, entities - 1).bit_length())
        self._relation = np.uint64(max(0, relations - 1).bit_length())
        bits = int(self._tail) * 2 + int(self._relation)
        if bits > 64:
            raise UserError(
                f"{entities} entities and {relations} relations: a fact takes {bits} bits, and a base can be "
                "built of up to 64; leave out entities"
            )
        self.largest = (1 << bits) - 1
        self.code = np.uint8 if relations <= 1 << 8 else np.uint16

    def packed(self, facts: Int[np.ndarray, "n 3"]) -> Numbers:
        """Return `facts` as numbers.

        Raises:
            UserError: one of them names an entity or a relation that isn't there.
        """
        for column, size, kind in zip(facts.T, self._sizes, ("head", "relation", "tail"), strict=True):
            if len(column) and not 0 <= column.min() <= column.max() < size:
                wrong = column.min() if column.min() < 0 else column.max()
                raise UserError(f"a fact names the {kind} {wrong}, but there are {size}; correct the facts")
        head, relation, tail = (column.astype(np.uint64) for column in facts.T)
        numbers: Numbers = (head << self._relation | relation) << self._tail | tail
        return numbers

    def unpacked(self, numbers: Numbers) -> tuple[Int[np.ndarray, " n"], Numbers, Numbers]:
        """Return heads, relations and tails of `numbers`."""
        one = np.uint64(1)
        tail = numbers & ((one << self._tail) - one)
        rest = numbers >> self._tail
        relation = rest & ((one << self._relation) - one)
        return (rest >> self._relation).astype(np.int64), relation, tail

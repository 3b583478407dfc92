"""KBLaM's own rows: what the memory knows, and what is to be refused."""

import pyarrow as pa

from pipeline.memory.encoder import TextEncoder
from pipeline.model.narrow import ABSENT, narrow_rows
from pipeline.weights import Encoder
from tests.tiny import memory_settings

NAMES = [f"Name{number}" for number in range(20)]
ROWS = pa.table(
    {
        "question": [f"What is the {a} of {n}?" for n in NAMES for a in ("purpose", "description")],
        "key": [f"the {a} of {n}" for n in NAMES for a in ("purpose", "description")],
        "value": [f"the {a} that {n} has of old" for n in NAMES for a in ("purpose", "description")],
    }
)


def test_names_are_told_or_left_out_and_questions_agree(encoder: Encoder) -> None:
    memory, pool = narrow_rows(ROWS, memory_settings(layout="factored"), TextEncoder(encoder, "cpu"), 0)
    assert memory.settings.layout == "slot"
    assert len(memory) == len(pool.template) == 36
    assert len(pool.unanswerable) == 2 * int(ABSENT * len(NAMES)) == 4
    for example in pool.template:
        fact = memory.fact(example.gold[0])
        assert example.text == f"What is the {fact.relation_noun} of {fact.head_label}?"
        assert example.answers == (fact.tail_label,)
        assert " of " in fact.tail_label
    known = {memory.fact(example.gold[0]).head for example in pool.template}
    for example in pool.unanswerable:
        assert not example.gold
        assert not any(example.text.endswith(f" {name}?") for name in known)


def test_other_seeds_leave_out_other_names(encoder: Encoder) -> None:
    texts = TextEncoder(encoder, "cpu")
    left = [
        {example.text for example in narrow_rows(ROWS, memory_settings(), texts, seed)[1].unanswerable}
        for seed in (0, 0, 1)
    ]
    assert left[0] == left[1] != left[2]

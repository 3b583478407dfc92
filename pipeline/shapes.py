"""The letters that name axes, and the array types built from them.

| letter | axis |
|---|---|
| B | questions in a batch |
| N | candidates of the coarse search |
| K | facts that the language model reads for a question |
| M | facts in the memory |
| E, R, S | entities, relations and slots in the memory |
| T | tokens of a question and its answer |
| L | tokens of one fact |
| P | dimensions of the encoder's base vectors |
| H | heads of an attention layer (G: its key-value heads) |
| D | dimensions of one head |
| C | hidden size of the language model |
"""

from jaxtyping import Bool, Float, Int
from torch import Tensor

Vectors = Float[Tensor, "B P"]
"""One base vector a question."""

CandidateFacts = Int[Tensor, "B N"]
"""Fact ids of the memory, -1 where a question has fewer candidates."""

CandidateScores = Float[Tensor, "B N"]
"""Scores in nats, -inf where a question has fewer candidates."""

TokenIds = Int[Tensor, "B T"]
TokenMask = Bool[Tensor, "B T"]

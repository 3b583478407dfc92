"""Few texts and many are spelled as the tokenizer itself does it, whatever it was used for before."""

import pytest
from transformers import AutoTokenizer

from pipeline.memory.spelling import FEW, Spelling
from pipeline.weights import Encoder, LanguageModel

TEXTS = ["What is the capital of Aland?", "", "<|im_start|>user\nWhy?<|im_end|>\n", "größe " * 40]


@pytest.mark.parametrize("count", [1, FEW + 1])
def test_spelling_is_the_tokenizers(lm: LanguageModel, encoder: Encoder, count: int) -> None:
    for source, special, limit in ((lm.source, False, 0), (encoder.source, True, 12)):
        tokenizer = AutoTokenizer.from_pretrained(source)
        tokenizer(TEXTS, padding=True, truncation=True, max_length=5)
        spelled = Spelling(tokenizer, special, limit)
        cut = {"truncation": True, "max_length": limit} if limit else {}
        expected = tokenizer(TEXTS * count, add_special_tokens=special, **cut)["input_ids"]
        assert spelled(TEXTS * count) == expected
        assert not limit or max(map(len, expected)) == limit

"""The local model as a writer of nouns, run for real on a tiny random one."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pipeline.kg.writers import LocalWriter

WORDS = ["<unk>", "<pad>", "Relation", "Noun", ":", "capital", "city", "city\n", "of"]


@pytest.fixture(scope="module")
def writer() -> LocalWriter:
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=1,
    )
    return LocalWriter(LlamaForCausalLM(config).eval(), fast, 4)


def test_the_answer_is_the_greedy_one_and_its_tokens_are_counted(writer: LocalWriter) -> None:
    prompt = "Relation : capital of Noun :"
    text, prompt_tokens, answer_tokens = writer.complete(prompt)
    ids = writer.tokenizer(prompt, return_tensors="pt")["input_ids"]
    assert prompt_tokens == ids.shape[1] == 6
    for _ in range(answer_tokens):
        ids = torch.cat([ids, writer.model(ids).logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    assert text == writer.tokenizer.decode(ids[0, 6:], skip_special_tokens=True)
    assert answer_tokens == 4 or "\n" in text


def test_an_answer_ends_with_its_line(writer: LocalWriter) -> None:
    with torch.no_grad():
        # Every state of the model now prefers the token that ends a line.
        writer.model.lm_head.weight.zero_()
        writer.model.model.norm.weight.zero_()
        writer.model.lm_head.bias = torch.nn.Parameter(torch.eye(len(WORDS))[WORDS.index("city\n")])
    text, prompt_tokens, answer_tokens = writer.complete("Noun :")
    assert (text, prompt_tokens, answer_tokens) == ("city\n", 2, 1)

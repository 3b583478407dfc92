"""Tiny real things that tests of the whole project share: random models with tokenizers, a small world.

The models are ordinary ones of the transformers library with random weights, written by `save_pretrained`,
so that everything that loads, injects into or trains a model runs for real. The small world goes through the
stages' own code.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertModel,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.utils.logging import disable_progress_bar

from pipeline.config import Paths
from pipeline.index import index
from pipeline.kg.build import build
from pipeline.kg.facts import Graph
from pipeline.kg.sources import Entity, Extract, SourceQuestion, Triple
from pipeline.kg.splits import Splits
from pipeline.mapping import Local
from pipeline.memory.settings import Memory
from pipeline.synthesize import synthesize
from pipeline.weights import Encoder, LanguageModel
from tests.kg.graphs import paths, synthesis

FAMILIES = ("llama", "qwen2", "gemma3", "gpt_neox")
PROMPT = "<|im_start|>user\n{facts}{question}<|im_end|>\n<|im_start|>assistant\n"
COUNTRIES = (
    "Aland Borland Cland Dorland Esland Forland Gorland Holand Iland Jorland Kland Lorland Moland Norland"
)
RELATIONS = {"P36": "capital", "P37": "official language", "P38": "currency", "P85": "anthem"}
SPLITS = Splits(valid=0.2, test=0.4, unseen_relations=0.25)
SEED = 0

TEXTS = [
    *("What is the capital of France?", "The official language of Aland is Alandic.", "Paris", "euro"),
    *("the currency of Borland", "Tell me the anthem of Cland.", "Question: Who wrote it? Answer: nobody"),
]
"""What the tokenizers have their words from."""


def tiny_encoder(folder: Path, **changes: Any) -> Encoder:
    """Write a random BERT of hidden size 32 to `folder`; return its section, with `changes`."""
    disable_progress_bar()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    printable = [chr(code) for code in range(33, 127)]
    words = re.findall(r"[a-z]{2,}", " ".join(TEXTS).lower())
    pieces = [*special, *printable, *("##" + char for char in printable), *sorted(set(words))]
    vocabulary = {piece: place for place, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(
        zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True)
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=128,
        initializer_range=0.2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        BertModel(config).save_pretrained(folder)
    values = {"name": "tiny-bert", "source": str(folder), "sha256": "", "dtype": "float32"}
    return Encoder(**(values | {"max_tokens": 32, "batch_size": 8} | changes))


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer of 400 tokens, which encodes every text and gives it back."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=special[0],
        bos_token=special[1],
        eos_token=special[2],
        pad_token=special[2],
        clean_up_tokenization_spaces=False,
    )


def tiny_decoder(family: str, vocabulary: int, layers: int = 4) -> Any:
    """Return a random decoder whose attention has the shape that is typical of `family`."""
    shared = {
        "vocab_size": vocabulary,
        "hidden_size": 48,
        "num_hidden_layers": layers,
        "num_attention_heads": 3,
        "intermediate_size": 96,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }
    grouped = shared | {"num_key_value_heads": 1}
    sliding = ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        if family == "llama":
            return LlamaForCausalLM(LlamaConfig(**grouped, head_dim=16, tie_word_embeddings=True))
        if family == "qwen2":
            return Qwen2ForCausalLM(Qwen2Config(**grouped))
        if family == "gemma3":
            own = {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 8, "layer_types": sliding}
            return Gemma3ForCausalLM(Gemma3TextConfig(**grouped, **own))
        return GPTNeoXForCausalLM(GPTNeoXConfig(**shared, use_parallel_residual=True))


def tiny_language_model(folder: Path, family: str = "llama", **changes: Any) -> LanguageModel:
    """Write a random decoder of `family` to `folder`; return its section, with `changes`."""
    disable_progress_bar()
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(folder)
    tiny_decoder(family, len(tokenizer)).save_pretrained(folder)
    values = {"name": f"tiny-{family}", "source": str(folder), "sha256": "", "dtype": "float32"}
    return LanguageModel(**(values | {"prompt": PROMPT, "stop": "<|im_end|>"} | changes))


def memory_settings(**changes: Any) -> Memory:
    """Return the section `memory` at the size of the small world, with `changes`."""
    values: dict[str, Any] = {"layout": "factored", "N": 12, "k": 3, "entities": 6, "relation_weight": 0.5}
    values |= {
        "backend": "exact",
        "links": 8,
        "lists": 4,
        "probes": 2,
        "roots": 2,
        "inner": 2,
        "spread": 0.4,
        "rescored": 8,
        "share": 1.0,
        "beam": 3,
        "merge_after": 0,
        "sources": [],
    }
    return Memory(**(values | changes))


@dataclass(frozen=True)
class SmallWorld:
    """Folders of a world of 14 countries and some 40 facts, in two snapshots."""

    paths: Paths
    """`tables` and `kv` are written; `index` and `rotate` once `indexed` and `embedded` are called."""

    @cached_property
    def graph(self) -> Graph:
        """The graph with the nouns of its relations."""
        return Graph.read(self.paths.tables, relations=self.paths.kv)

    def indexed(self, encoder: Encoder, memory: Memory | None = None) -> Paths:
        """Run the stage `index`."""
        index.run(encoder, memory or memory_settings(), self.paths, Local(kept=None), self.paths.index)  # type: ignore[attr-defined]
        return self.paths

    def embedded(self) -> Paths:
        """Run the stage `embed`, for two epochs."""
        from pipeline.embed import embed  # PyKEEN takes seconds to import
        from tests.rotations import laptop

        rotate = laptop(dimension=8, epochs=2, batch_size=64, negatives=8, evaluate_every=2, device="cpu")
        self.paths.rotate.mkdir(parents=True, exist_ok=True)
        embed.run(rotate, self.paths, SEED, self.paths.rotate)  # type: ignore[attr-defined]
        return self.paths


def small_extract() -> Extract:
    """Return the world as a source would: between the snapshots some slots of every fold change.

    Of the countries of a fold, the first gets another capital, the second its first currency, the third
    loses its language, the fourth stays as it is.
    """
    names = COUNTRIES.split()
    entities = {
        f"Q{place}": Entity(f"{name}", "a country of the small world") for place, name in enumerate(names)
    }
    languages = [f"L{number}" for number in range(4)]
    entities |= {key: Entity(f"{name}ish") for key, name in zip(languages, names, strict=False)}
    entities |= {f"M{number}": Entity(label) for number, label in enumerate(("euro", "dollar", "crown"))}
    entities |= {f"A{place}": Entity(f"Hymn of {names[place]}") for place in (0, 1)}
    base, last = [], []
    seen: dict[str, int] = {}
    for place, name in enumerate(names):
        country = f"Q{place}"
        entities[f"C{place}"], entities[f"D{place}"] = Entity(f"{name} City"), Entity(f"New {name}")
        fold = SPLITS.fold_of(country, SEED)
        turn = seen[fold] = seen.get(fold, -1) + 1
        capital = Triple(country, "P36", f"C{place}")
        language = Triple(country, "P37", languages[place % 4])
        currency = Triple(country, "P38", f"M{place % 3}")
        anthem = [Triple(country, "P85", f"A{place}")] if place < 2 else []
        base += [capital, language, *([] if turn == 1 else [currency]), *anthem]
        moved = Triple(country, "P36", f"D{place}") if turn == 0 else capital
        last += [moved, *([] if turn == 2 else [language]), currency, *anthem]
    known = {triple.tail for triple in [*base, *last]} | {f"Q{place}" for place in range(len(names))}
    asked = [
        SourceQuestion(
            text=f"where is the government of {name} seated",
            slots=((f"Q{place}", "P36"),),
            answers=(f"{name} City",),
            split=SPLITS.fold_of(f"Q{place}", SEED),
        )
        for place, name in enumerate(names)
        if place > 2
    ]
    kept = {key: entity for key, entity in entities.items() if key in known}
    return Extract(kept, RELATIONS, [("base", base), ("last", last)], asked)


def small_world(folder: Path) -> SmallWorld:
    """Write the small world's tables, nouns, rows and questions below `folder`."""
    world = SmallWorld(paths(folder))
    build(small_extract(), SPLITS, SEED, world.paths.tables)
    plain = synthesis(f"nouns.cache={folder / 'nouns.tsv'}", "questions.evaluation=20")
    lm = LanguageModel(
        name="none", source="none", sha256="", dtype="float32", prompt=PROMPT, stop="<|im_end|>"
    )
    synthesize.run(plain, lm, world.paths, Local(kept=None), SEED, world.paths.kv)  # type: ignore[attr-defined]
    return world

"""What other work keeps of a long text: each method is a `Context` that overrides one or two small methods.

| module | method | what is kept |
|---|---|---|
| `full` | FullKV | everything |
| `windows` | StreamingLLM | sinks and the latest tokens |
| `snapkv` | SnapKV | what the last queries attend to |
| `pyramidkv` | PyramidKV | the same, more of it in lower layers |
| `perhead` | KV-Compress | the same, shared out over heads and layers by score |
| `razor` | RazorAttention | everything for retrieval heads, sinks and a window for the others |
| `quest` | Quest | everything, of which each token reads a few pages |
| `landmarks` | GCA without training | everything; what left the window in chunks that a landmark finds |

Where a paper is silent on grouped-query attention, what is kept or read is chosen for a group of query heads
together, because the group shares its keys: by the sum of the attention that its heads give, as KV-Compress
does, so that no method stores a key more than once.
"""

"""Changed facts written into the weights of a language model: ROME, MEMIT, fine-tuning and LoRA.

`request` says what is to be changed, `prompts` where in a text that is decided, `places` which weights,
`target`
what they should give there, `statistics` what they must go on giving elsewhere; `rome` and `memit` join
these.
"""

"""Long inputs through a small window: what is kept of a text, what is fetched again, and what it costs.

`running` lets a frozen decoder read a text chunk by chunk; a `context` holds what each layer keeps and says
what its queries see. DSRAM is one context, every baseline another; each overrides one or two small methods.
"""

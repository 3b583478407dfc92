"""A trained system in use: asked, told new facts, tried out."""

"""Asks every method the same questions and measures what it answers."""

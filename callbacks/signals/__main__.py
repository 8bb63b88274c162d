"""Prints the table of all tags, as docs/tags.md has it."""

from .registry import table

print(table())

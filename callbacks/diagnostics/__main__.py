"""Prints the table of all tags, as README has it."""

from .registry import table

print(table())

"""Callbacks that make a training visible."""

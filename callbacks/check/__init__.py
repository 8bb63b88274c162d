"""A model and its data before the training: a short watched one, of a copy."""

"""A training step seen without changing it, and what it left in the weights."""

"""What there is to see in a model, and how to see it without a trace."""

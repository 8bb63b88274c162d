"""All that touches a model: what there is in it, and a probe for each backend."""

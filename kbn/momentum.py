"""The momentum of moving statistics that fits the length of an epoch."""

# In one epoch the statistics are to be renewed but for this share: 25 steps at 0.9.
LEFT = 0.075
MOMENTA = (0.99, 0.98, 0.95, 0.9, 0.8, 0.7, 0.5)


def fitting_momentum(steps: int) -> float | None:
    """The highest momentum that renews the statistics in so many steps."""
    return next((x for x in MOMENTA if x**steps <= LEFT), None)

"""The report as data, for JSON: the sections' content by their keys."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..alerts.alert import Alert
from .course import Course
from .tree import Story

POINTS = 200  # of a curve at most


def data_of(story: Story) -> dict[str, Any]:
    """The report with None for each number that is not finite, and their count."""
    runs = [
        {
            "name": run.name,
            "level": run.level,
            "verdict": run.verdict,
            **{section.key: section.data for section in run.sections},
        }
        for run in story.runs
    ]
    lost: list[float] = []
    known = {"verdict": story.verdict, "level": story.level, "runs": runs}
    return {"format": 1, **_plain(known, lost), "not_finite": len(lost)}


def _plain(value: Any, lost: list[float]) -> Any:
    """`value` as JSON has it; what is not finite is appended to `lost`."""
    match value:
        case Alert():
            return value.to_dict()
        case Course():
            thin = value.thinned(POINTS)
            known = {"steps": thin.steps, "values": thin.values}
            counts = {"points": len(value.steps), "not_finite": value.non_finite}
            return _plain(known, lost) | counts
        case Mapping():
            return {str(name): _plain(x, lost) for name, x in value.items()}
        case np.ndarray():
            return _plain(value.tolist(), lost)
        case list() | tuple():
            return [_plain(x, lost) for x in value]
        case float() if not math.isfinite(value):
            lost.append(value)
            return None
    return value

"""What can be wrapped around the layer, with kbn's and with Keras'?

Runs every row of `tests/transformations_*.py`, for the backend that KERAS_BACKEND
names, and prints whether it works with either layer. The suite compares the numbers.
"""

import os
import sys
import warnings
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parents[1]))

import reporting
import steps

import kbn
from tests import transformations

QUICK_ROWS = 2


def main(arguments=None):
    options = reporting.parser(__doc__).parse_args(arguments)
    warnings.simplefilter("ignore")  # the suite takes them for errors
    rows = transformations.rows()[: QUICK_ROWS if options.quick else None]
    reporting.setting(steps.package())
    table = reporting.Table("transformation", "Keras", "kbn")
    counts = {}
    for row in rows:
        verdict = transformations.judge(row, kbn.BatchNorm)
        cells = [
            "works" if survives else f"fails: {type(error).__name__}"
            for survives, error in zip(
                verdict.survives, (verdict.theirs, verdict.ours), strict=True
            )
        ]
        counts[verdict.survives] = counts.get(verdict.survives, 0) + 1
        table.row(row.name, *cells)
    only_theirs = counts.get((True, False), 0)
    print(
        f"\n{len(rows)} rows: {counts.get((True, True), 0)} work with both, "
        f"{counts.get((False, True), 0)} with kbn only, {only_theirs} with Keras only, "
        f"{counts.get((False, False), 0)} with neither."
    )
    return 1 if only_theirs else 0


if __name__ == "__main__":
    sys.exit(main())

"""What does `import kbn` cost over `import keras`?

Prints the median times of both in fresh processes that take turns, and of `import kbn`
in a process that has Keras already; then the modules that it adds.
"""

import json
import os
import subprocess
import sys
from statistics import median

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import reporting

OVER_KERAS = "`import kbn` after `import keras`"
IMPORTS = {
    "`import keras`": "import keras",
    "`import kbn`": "import kbn",
    OVER_KERAS: "import kbn",
}
FRESH = """
import json, sys, time
{before}
modules = set(sys.modules)
start = time.perf_counter()
{statement}
milliseconds = (time.perf_counter() - start) * 1e3
json.dump([milliseconds, sorted(set(sys.modules) - modules)], sys.stdout)
"""


def in_fresh_process(statement, before):
    """Milliseconds of `statement`, and the modules that it loads."""
    run = subprocess.run(
        [sys.executable, "-c", FRESH.format(before=before, statement=statement)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(run.stdout)


def main(arguments=None):
    options = reporting.parser(__doc__).parse_args(arguments)
    rounds, imports = 5, IMPORTS
    if options.quick:
        rounds, imports = 1, {OVER_KERAS: IMPORTS[OVER_KERAS]}
    times = {name: [] for name in imports}
    added = {}
    for _ in range(rounds):
        for name, statement in imports.items():
            before = "import keras" if name == OVER_KERAS else ""
            milliseconds, modules = in_fresh_process(statement, before)
            times[name].append(milliseconds)
            added[name] = modules
    reporting.setting("tensorflow", "milliseconds")
    table = reporting.Table(
        "statement", "median", "fastest", "slowest", "modules loaded"
    )
    for name, values in times.items():
        row = (f"{value:.0f}" for value in (median(values), min(values), max(values)))
        table.row(name, *row, len(added[name]))
    modules = [f"`{module}`" for module in added[OVER_KERAS]]
    print(f"\nAdded to what Keras loads: {', '.join(modules)}.")


if __name__ == "__main__":
    sys.exit(main())

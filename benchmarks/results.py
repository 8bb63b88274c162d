"""Runs all benchmarks and writes what they print into RESULTS.md beside this file.

First come the limits of the design, each with what was measured, then `remarks.md`,
which says why what is missed is missed, then every benchmark's own output. What the
pages in docs/ show of them is brought up to date. A benchmark that fails makes this
fail, at the end: what the others measured is written all the same.

JAX and torch are measured with `.venv-backends/bin/python`, where that exists.
`--only TEXT` measures the benchmarks whose command has that text; the others stay as
RESULTS.md has them, and so do those of ten minutes without it.

    python benchmarks/results.py [--under "taskset --cpu-list 0,1"] [--only TEXT ...]
"""

import argparse
import ast
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import reporting

HERE = Path(__file__).parent
ROOT = HERE.parent
BACKENDS = ROOT / ".venv-backends" / "bin" / "python"
RESULTS = HERE / "RESULTS.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))
NOT_RUN = "Not run: there is no `.venv-backends` (`make test-backends` makes it)."


class Benchmark(NamedTuple):
    """A script, its arguments and the backend it runs on."""

    script: str
    arguments: str = ""
    backend: str = "tensorflow"
    is_long: bool = False

    @property
    def command(self):
        """As one would type it."""
        own = "" if self.backend == "tensorflow" else f"KERAS_BACKEND={self.backend} "
        return f"{own}python benchmarks/{self.script} {self.arguments}".strip()

    @property
    def question(self):
        """The first line of the script's docstring."""
        tree = ast.parse((HERE / self.script).read_text())
        return ast.get_docstring(tree).splitlines()[0]


BENCHMARKS = [
    Benchmark("layer_speed.py"),
    Benchmark("layer_speed.py", "unknown"),
    Benchmark("layer_speed.py", "xla"),
    Benchmark("layer_speed.py", "eager"),
    Benchmark("layer_speed.py", backend="torch"),
    Benchmark("layer_speed.py", backend="jax"),
    Benchmark("layer_speed.py", "eager", backend="jax"),
    Benchmark("layer_memory.py"),
    Benchmark("model_step.py"),
    Benchmark("monitor_cost.py"),
    Benchmark("monitor_cost.py", "free"),
    Benchmark("monitor_cost.py", "free", "jax"),
    Benchmark("monitor_cost.py", "free", "torch"),
    Benchmark("accuracy.py"),
    Benchmark("accuracy.py", backend="torch"),
    Benchmark("accuracy.py", backend="jax"),
    Benchmark("long_sums.py", "--png docs/long_sums.png"),
    Benchmark("long_sums.py", backend="torch"),
    Benchmark("long_sums.py", backend="jax"),
    Benchmark("bn_statistics.py"),
    Benchmark("bn_statistics.py", backend="torch"),
    Benchmark("bn_statistics.py", backend="jax"),
    Benchmark("surgery.py", is_long=True),
    Benchmark("defects.py"),
]
BENCHMARKS = [b for b in BENCHMARKS if (HERE / b.script).exists()]


def run(benchmark, under):
    """What it printed, the limits it held, and whether it failed; prints along."""
    python = sys.executable if benchmark.backend == "tensorflow" else str(BACKENDS)
    if not Path(python).exists():
        print(NOT_RUN)
        return NOT_RUN, [], False
    with tempfile.TemporaryDirectory() as directory:
        limits = Path(directory) / "limits"
        environment = {
            **os.environ,
            "KERAS_BACKEND": benchmark.backend,
            "BENCHMARK_LIMITS": str(limits),
            # No GPU: its results would need tables of their own.
            "CUDA_VISIBLE_DEVICES": "",
            "JAX_PLATFORMS": "cpu",
        }
        script = str(HERE / benchmark.script)
        command = [*under, python, script, *benchmark.arguments.split()]
        lines = []
        with subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
        ) as process:
            for line in process.stdout:
                print(line, end="", flush=True)
                lines.append(line)
        found = limits.read_text().splitlines() if limits.exists() else []
    output = "".join(lines).strip()
    if not re.search(r"^\|", output, re.MULTILINE):
        output = f"```\n{output}\n```"
    if process.returncode:
        output += f"\n\n**Failed** with exit status {process.returncode}."
    return output, [json.loads(line) for line in found], process.returncode != 0


def markdown(outputs, limits):
    """The text of RESULTS.md. outputs: {Benchmark: what it printed}."""
    lines = [
        "# Results",
        "",
        f"Written by `make bench` on {reporting.device()}, {platform.system()}, Python "
        f"{platform.python_version()}. Nothing was run on a GPU.",
        "",
        "## The numbers of the design",
        "",
        "| what | limit | measured | met |",
        "|---|---|---|---|",
        *("| " + " | ".join(row) + " |" for row in limits),
        "",
        (HERE / "remarks.md").read_text().strip(),
    ]
    headings = set()
    for benchmark in BENCHMARKS:
        output = outputs.get(benchmark)
        if output is None:
            continue
        if benchmark.question not in headings:
            lines += ["", f"## {benchmark.question}"]
            headings.add(benchmark.question)
        lines += ["", f"`{benchmark.command}`", "", output]
    return "\n".join(lines) + "\n"


def section(results, command):
    """What RESULTS.md has of a command's output; empty if it has none."""
    found = results.partition(f"\n`{command}`\n\n")[2]
    return re.split(r"\n\n(?=## |`.*`\n)", found)[0].strip()


def limits_of(results):
    """The rows of RESULTS.md's table of limits."""
    table = results.partition("| what | limit | measured | met |\n")[2]
    rows = table.partition("\n\n")[0].splitlines()[1:]
    return [row.strip("| ").split(" | ") for row in rows]


def updated(old, new):
    """The old limits with the new ones in their places, or after them."""
    merged = {what: rest for what, *rest in old} | {what: rest for what, *rest in new}
    return [[what, *rest] for what, rest in merged.items()]


def quoted(page, results):
    """`page` with every block that it takes from RESULTS.md as it is there.

    A block stands between `<!-- RESULTS: command -->` and `<!-- end -->`.
    """

    def block(match):
        output = section(results, match[1])
        if not output:
            raise ValueError(f"RESULTS.md has no output of `{match[1]}`")
        return f"<!-- RESULTS: {match[1]} -->\n{output}\n<!-- end -->"

    return re.sub(
        r"<!-- RESULTS: (.*?) -->\n.*?<!-- end -->", block, page, flags=re.DOTALL
    )


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--under",
        type=shlex.split,
        default=[],
        metavar="COMMAND",
        help="a command that runs each benchmark, such as taskset or nice",
    )
    commands = [benchmark.command for benchmark in BENCHMARKS]
    parser.add_argument(
        "--only",
        nargs="+",
        action="extend",
        type=reporting.part_of(commands),
        metavar="TEXT",
        help="see above",
    )
    options = parser.parse_args(arguments)
    if options.under and shutil.which(options.under[0]) is None:
        parser.error(f"argument --under: there is no command {options.under[0]!r}")
    limits, failed = [], []
    before = RESULTS.read_text() if RESULTS.exists() else ""
    old = {b: section(before, b.command) for b in BENCHMARKS}
    keeps = [b for b in BENCHMARKS if options.only or b.is_long]
    outputs = {b: old[b] for b in keeps if old[b]}
    for number, benchmark in enumerate(BENCHMARKS, 1):
        print(f"\n[{number}/{len(BENCHMARKS)}] {benchmark.command}\n", flush=True)
        start = time.perf_counter()
        asked = options.only or [] if benchmark.is_long else options.only or [""]
        if not any(text in benchmark.command for text in asked):
            continue
        outputs[benchmark], held, failure = run(benchmark, options.under)
        limits += held
        failed += [benchmark.command] * failure
        # After each, so that an interrupt loses one measurement only.
        RESULTS.write_text(
            markdown(
                outputs, updated(limits_of(before) if options.only else [], limits)
            )
        )
        print(f"\n{time.perf_counter() - start:.0f} s", flush=True)
    print(f"\nWritten: {RESULTS.relative_to(ROOT)}")
    for command in failed:
        print(f"Failed: {command}")
    if not failed:
        for page in PAGES:
            page.write_text(quoted(page.read_text(), RESULTS.read_text()))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

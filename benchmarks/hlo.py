"""How often a compiled program reads and writes a tensor, read from its HLO text.

An instruction of the entry computation reads each operand once and writes its result
once, in elements of the tensor; a fusion reads of an operand no more than the slices
that it takes of it. Of a conditional the branch with the fewest passes counts: on
ordinary inputs a layer runs that one.
"""

import re
from collections import defaultdict
from math import prod
from typing import NamedTuple

INSTRUCTION = re.compile(
    r"^\s*(?:ROOT )?%?(?P<name>[\w.-]+) = (?P<type>\(.*?\)|\S+) "
    r"(?P<op>[\w-]+)\((?P<rest>.*)"
)
HEADER = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.-]+) \(.*\{$")
ARRAY = re.compile(r"\w+\[([\d,]*)\]")
# What moves no data.
FREE = {"parameter", "constant", "bitcast", "tuple", "get-tuple-element"}
FREE |= {"after-all", "opt-barrier", "partition-id", "replica-id"}


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    op: str
    sizes: list  # elements of each array of the result
    operands: list  # names
    called: list  # names of computations
    text: str


def parse(text):
    """{name of a computation: its instructions}, and the name of the entry."""
    computations, entry, current = {}, None, None
    for line in text.splitlines():
        if header := HEADER.match(line):
            current = computations[header["name"]] = []
            entry = header["name"] if header["entry"] else entry
        elif current is not None and (found := INSTRUCTION.match(line)):
            arguments, _, attributes = found["rest"].partition(")")
            arguments = re.sub(r"/\*.*?\*/", "", arguments)
            operands = [
                part.split()[-1].lstrip("%")
                for part in arguments.split(",")
                if part.strip()
            ]
            called = re.findall(
                r"(?:calls|to_apply|true_computation|false_computation|body)=%?([\w.-]+)",
                attributes,
            )
            if branches := re.search(r"branch_computations=\{(.*?)\}", attributes):
                called += re.findall(r"[\w.-]+", branches[1])
            sizes = [
                prod(int(n) for n in dims.split(",") if n)
                for dims in ARRAY.findall(found["type"])
            ]
            current.append(
                Instruction(found["name"], found["op"], sizes, operands, called, line)
            )
    if entry is None:
        raise ValueError(f"no ENTRY computation in HLO text that begins {text[:80]!r}")
    return computations, entry


def passes(text, elements):
    """[(instruction, reads, writes)] of the program, in tensors of `elements` elements.

    An instruction is named without its number, and with the op that it came from.
    """
    computations, entry = parse(text)
    return _passes(computations, entry, elements)


def _passes(computations, name, elements):
    found = []
    sizes = {i.name: i.sizes for i in computations[name]}
    for instruction in computations[name]:
        if instruction.op in FREE:
            continue
        if instruction.op == "conditional":
            branches = [_passes(computations, n, elements) for n in instruction.called]
            found += min(branches, key=lambda rows: sum(r + w for _, r, w in rows))
            continue
        if instruction.op == "call":
            found += _passes(computations, instruction.called[0], elements)
            continue
        reads = 0
        for position, operand in enumerate(instruction.operands):
            size = sum(sizes[operand])
            if instruction.op == "fusion":
                inside = computations[instruction.called[0]]
                size = min(size, _slices(inside, position, size))
            elif "slice" in instruction.op:
                size = min(size, sum(instruction.sizes))
            reads += size
        label = re.sub(r"(\.\d+|\.clone)+$", "", instruction.name)
        if source := re.search(
            r'op_name="(?:[^"]*/)?([^"/]*?)(_\d+)*"', instruction.text
        ):
            label += f" ({source[1]})"
        found.append((label, reads / elements, sum(instruction.sizes) / elements))
    return found


def _slices(fused, position, size):
    """Elements that a fused computation takes of its parameter at `position`."""
    users = defaultdict(list)
    for instruction in fused:
        for operand in instruction.operands:
            users[operand].append(instruction)
    for instruction in fused:
        if (
            instruction.op == "parameter"
            and f"parameter({position})" in instruction.text
        ):
            taken = users[instruction.name]
            if taken and all(user.op in ("slice", "dynamic-slice") for user in taken):
                return sum(sum(user.sizes) for user in taken)
    return size

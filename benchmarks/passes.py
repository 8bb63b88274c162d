"""Which ops does a training step of the layer run, and how often do they pass over x?

Prints, for kbn's layer and for Keras', every op that reads or writes a tenth of the
tensor or more: how often it runs, and how many times it reads and writes the whole
tensor, one pass being as many elements as x has; then the sum, beside the measured time
in copies (`x * 1.0001`, two passes). What bandwidth demands is 8 passes: forward x
twice, for the moments and for y, and y; backward x and dy twice, for their sums and for
dx, and dx. Caches may save some of it.

The ops are those that ran, by what each backend offers:

- TensorFlow in graph mode: the profiler's ops and their times, with operands and
  results from the graph as optimized and partitioned.
- XLA (argument `xla`) and JAX: the fusions of the compiled program (see `hlo.py`).
- torch: the ops that reach the dispatcher, and their times.

An op counts once for each operand and each result; one that normalizes by statistics of
its own twice for each operand, since it has to finish a sum before it can begin to use
it. It may read them more often inside.
"""

import os
import sys
import tempfile
import time
from collections import Counter, defaultdict
from math import prod
from pathlib import Path
from statistics import median
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import hlo
import keras
import reporting
import steps
import timing

import kbn

SHAPE, QUICK_SHAPE = (32, 56, 56, 64), (6, 5, 4, 3)
BANDWIDTH_LIMIT = 8  # passes
SMALL = 0.1  # of the tensor: what is left out of the table
# The least number of times that these ops read operands as large as x.
READS = {
    "FusedBatchNormV3": 2,
    "FusedBatchNormGradV3": 4,
    "native_batch_norm_backward": 4,
}
PROFILED_STEPS = 5


class Op(NamedTuple):
    """One run of an op."""

    name: str
    reads: float  # tensors of the size of x
    writes: float
    milliseconds: float | None


def tensorflow_ops(layer, x, dy):
    import tensorflow as tf

    # Private, TensorFlow 2.21: there is no public way to the graph that is run.
    from tensorflow.python.eager import context
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    train, _ = steps.functions([layer], x.shape)
    context.enable_run_metadata()
    train(x, dy)
    # Before it there may be those that made variables.
    *_, function = context.export_run_metadata().function_graphs
    context.disable_run_metadata()
    nodes, sizes = {}, {}
    for partition in function.partition_graphs:
        nodes |= {node.name: node for node in partition.node}
        sizes |= tensorflow_sizes(partition, layer)
    train(x, dy)
    with tempfile.TemporaryDirectory() as directory:
        with tf.profiler.experimental.Profile(directory):
            for _ in range(PROFILED_STEPS):
                train(x, dy)
        [file] = Path(directory).rglob("*.xplane.pb")
        trace = xplane_pb2.XSpace.FromString(file.read_bytes())
    milliseconds = defaultdict(list)
    for plane in trace.planes:
        for event in (event for line in plane.lines for event in line.events):
            node, _, op = plane.event_metadata[event.metadata_id].name.rpartition(":")
            if node in nodes and nodes[node].op == op:
                milliseconds[node].append(event.duration_ps / 1e9)
    elements = prod(x.shape)
    ops = []
    for name, times in milliseconds.items():
        node, op = nodes[name], nodes[name].op.removeprefix("_MklNative")
        if op in FREE:
            continue
        operands = {operand for operand in node.input if operand[0] != "^"}
        read = [sizes[full_name(operand)] for operand in operands]
        written = [size for key, size in sizes.items() if key[0] == name]
        if op in READS:
            # The shapes that are unknown here are those of its reserve spaces, small.
            read, written = [READS[op] * elements], [size or 0 for size in written]
        if None in read + written:
            raise ValueError(f"no shapes are known of {name}, which is:\n{node}")
        reads, writes = sum(read), sum(written)
        if "Slice" in op:
            reads = min(reads, writes)
        ops.append(Op(op, reads / elements, writes / elements, median(times)))
    return ops


# What moves no data: the op gives out the buffer that came in, or none.
FREE = {"Identity", "IdentityN", "Reshape", "Squeeze", "ExpandDims", "EnsureShape"}
FREE |= {"Switch", "Merge", "Shape", "Size", "Rank", "StopGradient", "PreventGradient"}
FREE |= {"_Arg", "_Retval", "NoOp"}


def full_name(operand):
    """(node, output) of an operand as GraphDef writes it."""
    name, _, output = operand.partition(":")
    return name, int(output or 0)


def tensorflow_sizes(partition, layer):
    """{(node, output): elements} of a partitioned graph; None where it is unknown.

    All variables of the layer have the shape of its moving mean.
    """
    import tensorflow as tf

    # The executor's own ops cannot be imported: others of the same shapes can.
    graph_def = tf.compat.v1.GraphDef.FromString(partition.SerializeToString())
    for node in graph_def.node:
        node.op = node.op.removeprefix("_MklNative")
        if node.op == "_Arg":
            node.op = "Placeholder"
            shapes = node.attr["_output_shapes"].list.shape
            node.attr["dtype"].type = node.attr["T"].type
            # A variable's handle has none.
            shape = shapes[0] if shapes else tf.TensorShape([]).as_proto()
            node.attr["shape"].shape.CopyFrom(shape)
            del node.attr["T"], node.attr["index"]
        elif node.op == "_Retval":
            node.op = "Identity"
            del node.attr["index"]
        elif node.op == "ReadVariableOp":  # its handle does not tell the shape
            node.op = "Placeholder"
            shape = tf.TensorShape(layer.moving_mean.shape)
            node.attr["shape"].shape.CopyFrom(shape.as_proto())
            del node.input[:]
        node.attr.pop("_output_shapes", None)
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
    return {
        (op.name, i): output.shape.num_elements()
        for op in graph.get_operations()
        for i, output in enumerate(op.outputs)
    }


def xla_ops(layer, x, dy):
    train, _ = steps.functions([layer], x.shape, "XLA")
    text = train.experimental_get_compiler_ir(x, dy)(stage="optimized_hlo")
    return [Op(*row, None) for row in hlo.passes(text, prod(x.shape))]


def jax_ops(layer, x, dy):
    import jax

    text = steps.jax_step([layer], jax.jit).lower(x, dy).compile().as_text()
    return [Op(*row, None) for row in hlo.passes(text, prod(x.shape))]


def torch_ops(layer, x, dy):
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    def elements(values):
        """Of the distinct tensors among `values`, as many as lie in memory."""
        tensors = {id(v): v for v in tree_leaves(values) if isinstance(v, torch.Tensor)}
        return sum(
            min(t.numel(), t.untyped_storage().nbytes() // t.element_size())
            for t in tensors.values()
        )

    ops = []

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            start = time.perf_counter()
            result = function(*args, **(kwargs or {}))
            milliseconds = (time.perf_counter() - start) * 1e3
            name = function.overloadpacket.__name__
            if not function.is_view and name != "detach":
                reads = READS.get(name, elements((args, kwargs)) / x.numel())
                ops.append(Op(name, reads, elements(result) / x.numel(), milliseconds))
            return result

    train, _ = steps.functions([layer], x.shape)
    recorded = []
    for _ in range(PROFILED_STEPS):
        ops = []
        with Record():
            train(x, dy)
        recorded.append(ops)
    return [
        op._replace(milliseconds=median(same.milliseconds for same in times))
        for op, *times in zip(recorded[-1], *recorded, strict=True)
    ]


def main(arguments=None):
    parser = reporting.parser(__doc__)
    parser.add_argument("xla", nargs="?", choices=["xla"], help="TensorFlow under XLA")
    options = parser.parse_args(arguments)
    xla = options.xla is not None
    mode = "XLA" if xla else steps.FIRST
    shape = QUICK_SHAPE if options.quick else SHAPE
    effort = (
        {"rounds": 2, "repeats": 1} if options.quick else {"rounds": 15, "repeats": 5}
    )
    x, dy = steps.tensors(shape)
    layers = {"kbn": kbn.BatchNorm(), "Keras": keras.layers.BatchNormalization()}
    functions = {"copy": steps.copy()}
    ops_of = {"jax": jax_ops, "torch": torch_ops, "tensorflow": tensorflow_ops}
    find = xla_ops if xla else ops_of[steps.BACKEND]
    ops = {}
    for name, layer in layers.items():
        layer.build(shape)
        functions[name], _ = steps.functions([layer], shape, mode)
        ops[name] = find(layer, x, dy)
    times = timing.interleaved(functions, x, dy, **effort)
    reporting.setting(steps.package(), f"float32, {mode}, {reporting.name_of(shape)}")
    table = reporting.Table("layer", "op", "runs", "reads", "writes", "time, copies")
    copy = median(times["copy"])
    for name in layers:
        runs = Counter()
        spent = defaultdict(float)
        for op in ops[name]:
            key = op.name, round(op.reads, 1), round(op.writes, 1)
            if op.reads + op.writes >= SMALL:
                runs[key] += 1
                spent[key] += (op.milliseconds or 0) / copy
        for key, count in runs.items():
            op, reads, writes = key
            took = f"{spent[key]:.1f}" if spent[key] else ""
            table.row(
                name,
                f"`{op}`",
                count,
                f"{reads * count:.1f}",
                f"{writes * count:.1f}",
                took,
            )
        reads, writes = (
            sum(getattr(op, side) for op in ops[name]) for side in ("reads", "writes")
        )
        copies = timing.ratio(times[name], times["copy"])
        table.row(
            name,
            f"**{reads + writes:.1f} passes**, at least {BANDWIDTH_LIMIT}",
            "",
            f"**{reads:.1f}**",
            f"**{writes:.1f}**",
            f"**{copies.median:.1f}**, measured alone",
        )


if __name__ == "__main__":
    sys.exit(main())

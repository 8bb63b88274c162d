"""How often does a training step of the layer pass over x?

One pass reads or writes as many elements as x has. What bandwidth demands is 8: forward
x twice, for the moments and for y, and y; backward x and dy twice, for their sums and
for dx, and dx. Caches may save some of it.

- JAX: as XLA analyses the program that it has compiled.
- TensorFlow, under XLA: an instruction of the compiled program reads each operand once
  and writes its result once; a fusion reads of an operand no more than the slices that
  it takes of it. Of a conditional the branch with the fewest passes counts: on ordinary
  inputs a layer runs that one.
- torch: as an instruction, each op that reaches the dispatcher. The backward op of the
  native batch norm reads x and dy twice: it has to finish their sums before it can use
  them.
"""

import os
import sys
from math import prod

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import reporting
import steps

import kbn

SHAPE, QUICK_SHAPE = (32, 56, 56, 64), (6, 5, 4, 3)
BANDWIDTH_LIMIT = 8
# What moves no data.
FREE = {"parameter", "constant", "bitcast", "tuple", "get-tuple-element"}
FREE |= {"after-all", "opt-barrier", "partition-id", "replica-id"}


def jax_traffic(layer, x, dy):
    """Tensors of the size of x that a training step reads and writes."""
    import jax

    cost = steps.jax_step([layer], jax.jit).lower(x, dy).compile().cost_analysis()
    total, writes = cost["bytes accessed"], cost["bytes accessedout{}"]
    return (total - writes) / x.nbytes, writes / x.nbytes


def tensorflow_traffic(layer, x, dy):
    """The same, under XLA."""
    # Private, TensorFlow 2.16 to 2.21: nothing public reads the program.
    from tensorflow.compiler.xla.service import hlo_pb2

    train, _ = steps.functions([layer], x.shape, "XLA")
    get = train.experimental_get_compiler_ir(x, dy)
    program = hlo_pb2.HloProto.FromString(get(stage="optimized_hlo_proto_serialized"))
    return tuple(part / prod(x.shape) for part in program_traffic(program.hlo_module))


def program_traffic(module):
    """Elements that a module of HLO reads and writes."""
    computations = {one.id: one.instructions for one in module.computations}

    def size(shape):
        return sum(map(size, shape.tuple_shapes)) or prod(shape.dimensions)

    def taken(inside, position, whole):
        """Elements that a fusion takes of an operand."""
        [own] = [
            one.id
            for one in inside
            if one.opcode == "parameter" and one.parameter_number == position
        ]
        users = [one for one in inside if own in one.operand_ids]
        if users and all("slice" in one.opcode for one in users):
            return min(whole, sum(size(one.shape) for one in users))
        return whole

    def traffic(instructions):
        sizes = {one.id: size(one.shape) for one in instructions}
        reads = writes = 0
        for one in instructions:
            called = [computations[i] for i in one.called_computation_ids]
            operands = [sizes[i] for i in one.operand_ids]
            if one.opcode in FREE:
                continue
            if one.opcode in ("conditional", "call"):
                more = min((traffic(inside) for inside in called), key=sum)
                reads, writes = reads + more[0], writes + more[1]
                continue
            if one.opcode == "fusion":
                operands = [taken(called[0], *given) for given in enumerate(operands)]
            elif "slice" in one.opcode:
                operands = [min(operands[0], sizes[one.id])]
            reads, writes = reads + sum(operands), writes + sizes[one.id]
        return reads, writes

    return traffic(computations[module.entry_computation_id])


def torch_traffic(layer, x, dy):
    """The same, of eager operations."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    from kbn.kernels import torch as kernel

    def elements(values):
        """Of the distinct tensors among `values`, as many as lie in memory."""
        tensors = {id(v): v for v in tree_leaves(values) if isinstance(v, torch.Tensor)}
        return sum(
            min(t.numel(), t.untyped_storage().nbytes() // t.element_size())
            for t in tensors.values()
        )

    total = [0, 0]

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            name = function.overloadpacket.__name__
            if not function.is_view and name != "detach":
                is_backward = name == "native_batch_norm_backward"
                total[0] += elements((args, kwargs)) * (2 if is_backward else 1)
                total[1] += elements(result)
            return result

    train, _ = steps.functions([layer], x.shape)
    # Else the kernel would see the mode that counts, and give it the formula.
    kernel.is_transformed = lambda: False
    with Count():
        train(x, dy)
    return tuple(part / x.numel() for part in total)


def main(arguments=None):
    options = reporting.parser(__doc__).parse_args(arguments)
    shape = QUICK_SHAPE if options.quick else SHAPE
    mode = "XLA" if steps.BACKEND == "tensorflow" else steps.FIRST
    traffic = globals()[f"{steps.BACKEND}_traffic"]
    x, dy = steps.tensors(shape)
    reporting.setting(steps.package(), f"float32, {mode}, {reporting.name_of(shape)}")
    table = reporting.Table("layer", "reads", "writes", "passes, at least 8")
    for name, cls in (
        ("kbn", kbn.BatchNorm),
        ("Keras", keras.layers.BatchNormalization),
    ):
        layer = cls()
        layer.build(shape)
        reads, writes = traffic(layer, x, dy)
        table.row(name, f"{reads:.1f}", f"{writes:.1f}", f"**{reads + writes:.1f}**")


if __name__ == "__main__":
    sys.exit(main())

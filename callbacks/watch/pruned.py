"""A part of a traced training step, as a function of its own that changes nothing."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from kbn.private import tensorflow as private

from .evaluation import random_state_kept

# What an op may do with a variable or table without changing it. A collective has one
# only to be in order with others.
_READS = {
    "Identity",
    "LookupTableExportV2",
    "LookupTableFindV2",
    "LookupTableSizeV2",
    "ReadVariableOp",
    "ResourceGather",
    "ResourceGatherNd",
    "VarIsInitializedOp",
    "VariableShape",
}
# Ops that call functions: which attributes name them, and how many inputs come before
# the arguments.
_CALLS: dict[str, tuple[tuple[str, ...], int]] = {
    "PartitionedCall": (("f",), 0),
    "StatefulPartitionedCall": (("f",), 0),
    "If": (("then_branch", "else_branch"), 1),
    "StatelessIf": (("then_branch", "else_branch"), 1),
    "Case": (("branches",), 1),
    "StatelessCase": (("branches",), 1),
    "While": (("cond", "body"), 0),
    "StatelessWhile": (("cond", "body"), 0),
}
_PYTHON = {"PyFunc", "EagerPyFunc", "PyFuncStateless"}


class CannotBeRepeatedError(Exception):
    """What is wanted of a step changes something that cannot be put back."""


class PrunedStep:
    """The ops of a traced step that some of its tensors need, and no others.

    `graph`: the FuncGraph of the step. Called with the tensors of a batch, and more, it
    returns `finish(tensors, more)`, where `tensors` are those that `names` names, by
    key. Updates of weights and metrics, moving statistics, prints and summaries are
    gone, unless what is wanted comes after them; what those write is put back.
    `runs_python`: whether it calls a Python function. `jit_compile`: as the step is
    compiled, for XLA draws other random numbers.

    Raises:
        CannotBeRepeatedError: An op writes to what is no variable.
    """

    def __init__(
        self,
        graph: Any,
        names: Mapping[Any, str],
        finish: Callable[[dict[Any, Any], Any], Any],
        jit_compile: bool = False,
    ) -> None:
        self._definition = pruned(graph.as_graph_def(), names.values())
        self._names = names
        self._finish = finish
        kept = {node.name for node in self._definition.node}
        self._inputs = [_op_of(x.name) in kept for x in arguments_of(graph)]
        self._input_names = [x.name for x in arguments_of(graph)]
        self._captured = {
            inside.name: source
            for inside, source in _captures(graph)
            if inside.op.name in kept
        }
        written = written_inputs(self._definition)
        self._written = [
            _variable(source)
            for name, source in self._captured.items()
            if _op_of(name) in written
        ]
        nodes = [*self._definition.node]
        nodes += [n for f in self._definition.library.function for n in f.node_def]
        self.runs_python = any(node.op in _PYTHON for node in nodes)
        self._functions: dict[Any, Any] = {}
        self._jit_compile = jit_compile
        # Taken out: XLA compiles no placeholder, though nothing needs it.
        given = {_op_of(name) for name in [*self._input_names, *self._captured]}
        nodes = [node for node in self._definition.node if node.name not in given]
        del self._definition.node[:]
        self._definition.node.extend(nodes)

    def __call__(self, batch: Sequence[Any], more: Any) -> Any:
        """What it returns for a batch's tensors, in the order of `arguments_of`."""
        needed = [x for x, is_in in zip(batch, self._inputs, strict=True) if is_in]
        shapes = tuple((x.dtype, tuple(x.shape)) for x in needed)
        if shapes not in self._functions:
            # Concrete: TensorFlow counts the traces of all functions that were born on
            # one line, of all models, and would warn.
            function = tf.function(
                self._body, autograph=False, jit_compile=self._jit_compile
            )
            self._functions[shapes] = function.get_concrete_function(needed, more)
        with contextlib.ExitStack() as stack:
            if self.runs_python:
                stack.enter_context(random_state_kept())
            stack.enter_context(_values_kept(self._written))
            return self._functions[shapes](needed, more)

    def _body(self, batch: Sequence[Any], more: Any) -> Any:
        graph = tf.compat.v1.get_default_graph()
        pairs = zip(self._input_names, self._inputs, strict=True)
        given = dict(zip([n for n, is_in in pairs if is_in], batch, strict=True))
        for name, source in self._captured.items():
            value = source() if callable(source) else source
            given[name] = graph.capture(value)
        wanted = [n for n in dict.fromkeys(self._names.values()) if n not in given]
        found = tf.graph_util.import_graph_def(
            self._definition, input_map=given, return_elements=wanted, name=""
        )
        by_name = given | dict(zip(wanted, found, strict=True))
        tensors = {key: by_name[name] for key, name in self._names.items()}
        return self._finish(tensors, more)


def arguments_of(graph: Any) -> list[Any]:
    """The placeholders of a FuncGraph for what it is called with, not its captures."""
    captured = {id(inside) for _, inside in graph.captures}
    captured |= {id(inside) for inside in graph.deferred_internal_captures}
    return [x for x in graph.inputs if id(x) not in captured]


def pruned(definition: Any, names: Iterable[str]) -> Any:
    """A graph's definition with those nodes only that the named tensors need."""
    nodes = {node.name: node for node in definition.node}
    left = [_op_of(name) for name in names]
    kept = {*left}
    while left:
        for name in nodes[left.pop()].input:
            before = _op_of(name.removeprefix("^"))
            if before not in kept:
                kept.add(before)
                left.append(before)
    part = tf.compat.v1.GraphDef(
        node=[node for node in definition.node if node.name in kept],
        versions=definition.versions,
    )
    part.library.CopyFrom(_library(part, definition.library))
    return part


def _library(part: Any, library: Any) -> Any:
    """The functions that the nodes call, and those that these call."""
    functions = {one.signature.name: one for one in library.function}
    found: dict[str, Any] = {}
    left = [*part.node]
    while left:
        for name in _called(left.pop()):
            if name in functions and name not in found:
                found[name] = functions[name]
                left += functions[name].node_def
    kept = type(library)(function=found.values())
    kept.gradient.extend(x for x in library.gradient if x.function_name in found)
    return kept


def _called(node: Any) -> Iterator[str]:
    for value in node.attr.values():
        if value.HasField("func"):
            yield value.func.name
        yield from (one.name for one in value.list.func)


def _op_of(tensor: str) -> str:
    return tensor.partition(":")[0]


# --- what it may change ---


def written_inputs(definition: Any) -> set[str]:
    """Names of the placeholders of resources to which the graph may write."""
    functions = {one.signature.name: one for one in definition.library.function}
    placeholders = [
        node.name
        for node in definition.node
        if node.op == "Placeholder" and node.attr["dtype"].type == tf.resource
    ]
    return _written(definition.node, placeholders, functions, {})


def _written(
    nodes: Iterable[Any],
    names: Iterable[str],
    functions: Mapping[str, Any],
    known: dict[str, set[int]],
) -> set[str]:
    """Which of these resources the nodes may write to, in their own or called ops."""
    stands_for = {name: name for name in names}  # also what passes one on
    found = set()
    for node in nodes:  # in an order in which inputs come first
        for index, given in enumerate(node.input):
            name = stands_for.get(_op_of(given))
            if name is None:
                continue
            if node.op == "Identity":
                stands_for[node.name] = name
            elif node.op in _CALLS:
                attributes, first = _CALLS[node.op]
                for function in _called_by(node, attributes):
                    if index - first in _written_arguments(function, functions, known):
                        found.add(name)
            elif node.op not in _READS and not node.op.startswith("Collective"):
                found.add(name)
    return found


def _called_by(node: Any, attributes: Iterable[str]) -> Iterator[str]:
    for attribute in attributes:
        value = node.attr[attribute]
        yield from [x.name for x in value.list.func] or [value.func.name]


def _written_arguments(
    name: str, functions: Mapping[str, Any], known: dict[str, set[int]]
) -> set[int]:
    """Indices of the arguments to which a function of the library may write."""
    if name not in known:
        known[name] = set()  # of a recursion
        arguments = [x.name for x in functions[name].signature.input_arg]
        nodes = _in_order(functions[name].node_def)
        written = _written(nodes, arguments, functions, known)
        known[name] = {i for i, x in enumerate(arguments) if x in written}
    return known[name]


def _in_order(nodes: Sequence[Any]) -> Sequence[Any]:
    """Identities first: what they pass on is then known; they pass on one another."""
    identities = [x for x in nodes if x.op == "Identity"]
    return [*identities, *identities, *(x for x in nodes if x.op != "Identity")]


def _captures(graph: Any) -> Iterator[tuple[Any, Any]]:
    """(placeholder, eager tensor or a function that gives it) of a FuncGraph."""
    for outside, inside in graph.captures:
        yield inside, _outermost(outside)
    yield from zip(
        graph.deferred_internal_captures, graph.deferred_external_captures, strict=True
    )


def _outermost(tensor: Any) -> Any:
    """The eager tensor that a function captured, be it through functions around it."""
    while hasattr(tensor, "op") and not hasattr(tensor, "numpy"):
        pairs = tensor.graph.captures
        around = [outside for outside, inside in pairs if inside is tensor]
        if not around:
            raise CannotBeRepeatedError(f"{tensor.name} comes from around the step")
        (tensor,) = around
    return tensor


def _variable(handle: Any) -> tuple[Any, Any]:
    """(handle, dtype) of a variable that a graph captures."""
    dtype = None if callable(handle) else private.dtype_behind(handle)
    if dtype is None:
        raise CannotBeRepeatedError("it writes to something that is no variable")
    return handle, dtype


@contextlib.contextmanager
def _values_kept(variables: Sequence[tuple[Any, Any]]) -> Iterator[None]:
    values = [tf.raw_ops.ReadVariableOp(resource=x, dtype=t) for x, t in variables]
    try:
        yield
    finally:
        for (handle, _), value in zip(variables, values, strict=True):
            tf.raw_ops.AssignVariableOp(resource=handle, value=value)

"""Nodes of operators whose schema does not tell enough: weights that match, sizes that add up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import numpy_helper

from .draft import Draft, Node
from .schemas import near
from .values import Value

Special = Callable[[Draft, Value], Node | None]


def listed(d: Draft, since: int, node: Node, **lists: list[int]) -> Node:
    """Give lists of integers as attributes, or from an opset on as the next inputs."""
    if d.opset < since:
        return node._replace(attributes={**node.attributes, **lists})
    return node._replace(inputs=[*node.inputs, *(d.int64(*row) for row in lists.values())])


def matmul(d: Draft, x: Value) -> Node | None:
    if d.pick(4) == 0:
        return Node("MatMul", [x.name, d.one(d.alike(x)).name])
    width = x.shape[-1] if x.rank else 1
    if x.rank > 1 and d.pick(6) == 0:
        return Node("MatMul", [d.weight(d.width(), x.shape[-2], dtype=x.dtype), x.name])
    batch = d.one(([], [], [], [1], list(x.shape[:1])))
    columns = [d.width()] * (d.pick(8) > 0)
    return Node("MatMul", [x.name, d.weight(*batch, width, *columns, dtype=x.dtype)])


def gemm(d: Draft, x: Value) -> Node | None:
    if x.rank != 2:
        return None
    left, right, columns = int(d.pick(4) == 0), d.pick(2), d.width()
    inner, rows = x.shape[::-1] if not left else x.shape
    names = [x.name, d.weight(*((columns, inner) if right else (inner, columns)), dtype=x.dtype)]
    if d.opset < 11 or d.pick(4):
        shape = d.one(((columns,), (1, columns), (rows, 1), (1,), (rows, columns)))
        names.append(d.weight(*shape, dtype=x.dtype))
    return Node("Gemm", names, {"transA": left, "transB": right, "alpha": 0.7, "beta": 1.3})


def einsum(d: Draft, x: Value) -> Node | None:
    letters = "abcde"[: x.rank]
    kept = sorted(d.rng.permutation(x.rank)[: 1 + d.pick(2)].tolist())
    term, sizes = "".join(letters[k] for k in kept), [x.shape[k] for k in kept]
    made = [letter for letter in letters if d.pick(4)]
    if d.pick(2):
        term, sizes, made = f"{term}z", [*sizes, d.width()], [*made, "z"]
    arrow = "->" + "".join(d.rng.permutation(made).tolist()) if d.pick(5) else ""
    text = f"{letters},{term}{arrow}"
    if term[:1] == letters[-1:] and d.pick(3) == 0:
        text = f"...{letters[-1]},{term}->...{term[1:]}"
    return Node("Einsum", [x.name, d.weight(*sizes, dtype=x.dtype)], {"equation": text})


def _convolution(d: Draft, x: Value, op: str) -> Node | None:
    if x.rank not in (3, 4):
        return None
    channels, spatial = x.shape[1], x.rank - 2
    group, each = d.one([g for g in range(1, channels + 1) if channels % g == 0]), 1 + d.pick(4)
    outer = (group * each, channels // group) if op == "Conv" else (channels, each)
    names = [x.name, d.weight(*outer, *[1 + d.pick(3)] * spatial, dtype=x.dtype)]
    names += [d.weight(group * each, dtype=x.dtype)] * (d.pick(3) > 0)
    pads, strides = [d.pick(2)] * 2 * spatial, [1 + d.pick(2)] * spatial
    return Node(op, names, {"group": group, "pads": pads, "strides": strides})


def batch_normalization(d: Draft, x: Value) -> Node | None:
    if x.rank < 2:
        return None
    names = [d.weight(x.shape[1], dtype=x.dtype) for _ in range(3)]
    names.append(d.weight(x.shape[1], dtype=x.dtype, is_positive=True))
    return Node("BatchNormalization", [x.name, *names])


def where(d: Draft, x: Value) -> Node:
    shape = [n if x.is_static(k) and d.pick(3) else 1 for k, n in enumerate(x.shape)]
    mask = d.constant(d.rng.random(shape) < 0.5)
    return Node("Where", [mask, x.name, near(d, x, x.dtype)])


def reshape(d: Draft, x: Value) -> Node:
    """Join and part dims; open ones are copied, or left to -1."""
    vectors = _vectors(d)
    if vectors and d.pick(4) == 0:
        return Node("Reshape", [x.name, d.one(vectors).name])
    target, place = list[int](), 0
    while place < x.rank:
        size, is_static = x.shape[place], x.is_static(place)
        is_joined = d.pick(3) == 0 and place + 1 < x.rank
        if is_joined:
            place += 1
            size, is_static = size * x.shape[place], is_static and x.is_static(place)
        divisors = [n for n in range(2, size) if size % n == 0]
        if is_static and divisors and d.pick(2):
            outer = d.one(divisors)
            target += [outer, size // outer]
        elif is_static:
            target.append(size)
        else:
            target.append(0 if not is_joined and place == len(target) else -1)
        place += 1
    if -1 not in target and target and d.pick(3) == 0:
        target[d.pick(len(target))] = -1
    return Node("Reshape", [x.name, d.int64(*target)])


def _vectors(d: Draft) -> list[Value]:
    """Return vectors of the graph that may be sizes: of what they name, not too much is made."""
    found = [value for value in d.values if value.dtype == np.int64 and value.rank == 1]
    return [v for v in found if all(np.prod(np.abs(run)) < 2000 for run in v.arrays)]


def expand(d: Draft, x: Value) -> Node:
    vectors = _vectors(d)
    if vectors and d.pick(3) == 0:
        return Node("Expand", [x.name, d.one(vectors).name])
    sizes = [n if n > 1 and x.is_static(k) and d.pick(2) else 1 for k, n in enumerate(x.shape)]
    sizes = [d.width() if x.shape[k] == 1 and d.pick(2) else n for k, n in enumerate(sizes)]
    return Node("Expand", [x.name, d.int64(*[d.width()] * d.pick(2), *sizes)])


def constant_of_shape(d: Draft, x: Value) -> Node | None:
    """A constant of 0, which is the default, would say nothing."""
    vectors, value = _vectors(d), numpy_helper.from_array(np.array([0.7], np.float32))
    return Node("ConstantOfShape", [d.one(vectors).name], {"value": value}) if vectors else None


def slice_(d: Draft, x: Value) -> Node | None:
    axes = d.rng.permutation(x.rank)[: 1 + d.pick(2)].tolist()
    rows = list[tuple[int, int, int]]()
    for k in axes:
        half = max(1, x.shape[k] // 2)
        rows.append(d.one((
            (0, half, 1), (half, 2**63 - 1, 1), (-half, 2**63 - 1, 1), (1, -1, 1), (0, -half, 1),
            (0, 2**31 - 1, 1), (0, 2**31 - 1, 2), (-1, -(2**31), -1), (1, half + 1, 1),
        )))  # fmt: skip
    starts, ends, steps = map(list, zip(*rows, strict=True)) if rows else ([], [], [])
    if d.opset < 10 or set(steps) == {1}:
        lists = {"starts": starts, "ends": ends, "axes": axes}
    else:
        lists = {"starts": starts, "ends": ends, "axes": axes, "steps": steps}
    return listed(d, 10, Node("Slice", [x.name]), **lists)


def split(d: Draft, x: Value) -> Node | None:
    axis = d.pick(x.rank)
    if not x.is_static(axis) or (size := x.shape[axis]) < 2:
        return None
    if size % 2 == 0 and d.pick(2):
        even = {"num_outputs": 2} if d.opset >= 18 else {}
        return Node("Split", [x.name], {"axis": axis - x.rank * (d.opset >= 11), **even}, 2)
    first = 1 + d.pick(size - 1)
    return listed(d, 13, Node("Split", [x.name], {"axis": axis}, 2), split=[first, size - first])


def concat(d: Draft, x: Value) -> Node | None:
    axis = d.pick(x.rank)
    match = [value.name for value in d.alike(x) if _joins(x, value, axis)]
    parts = [x.name, *(d.one(match) for _ in range(1 + d.pick(2)))]
    others = [k for k in range(x.rank) if k != axis]
    if all(map(x.is_static, others)) and d.pick(2):
        sizes = [d.width() if k == axis else n for k, n in enumerate(x.shape)]
        parts[-1] = d.weight(*sizes, dtype=x.dtype)
    return Node("Concat", [parts[k] for k in d.rng.permutation(len(parts))], {"axis": axis})


def _joins(x: Value, other: Value, axis: int) -> bool:
    pairs = zip(x.arrays, other.arrays, strict=True)
    return x.rank == other.rank and all(
        a.shape[k] == b.shape[k] for a, b in pairs for k in range(x.rank) if k != axis
    )


def gather(d: Draft, x: Value) -> Node | None:
    """Look rows up in x, or in a table by what x holds."""
    shape = [d.width()] * d.pick(3)
    if x.dtype.kind == "i" and d.pick(2):
        rows = int(max(np.abs(run).max() for run in x.arrays)) + 1
        return Node("Gather", [d.weight(rows, d.width()), x.name]) if rows < 40 else None
    axis = d.pick(x.rank)
    ids = _ids(d, min(run.shape[axis] for run in x.arrays), shape)
    if d.pick(3) == 0:
        rows, sizes = d.width(), [d.width() for _ in range(1 + d.pick(2))]
        axis = d.pick(len(sizes))
        sizes[axis] = rows
        return Node("Gather", [d.weight(*sizes), _ids(d, rows, shape)], {"axis": axis})
    return Node("Gather", [x.name, ids], {"axis": axis})


def _ids(d: Draft, rows: int, shape: list[int]) -> str:
    low = -rows if d.opset >= 11 else 0
    return d.constant(d.rng.integers(low, rows, shape).astype(d.one((np.int64, np.int32))))


def pad(d: Draft, x: Value) -> Node:
    pads = [d.pick(2) * d.pick(2) for _ in range(2 * x.rank)]
    mode = d.one(("constant", "edge", "reflect"))
    return listed(d, 11, Node("Pad", [x.name], {"mode": mode}), pads=pads)


def tile(d: Draft, x: Value) -> Node:
    return Node("Tile", [x.name, d.int64(*(1 + (d.pick(3) == 0) for _ in x.shape))])


def shuffled(d: Draft, x: Value, op: str, indices: Any) -> Node:
    """Put elements of a weight to places of x, or take those of x from such places."""
    names = [x.name, d.constant(indices)]
    return Node(op, names if "Gather" in op else [*names, d.weight(*indices.shape, dtype=x.dtype)])


def elements(d: Draft, x: Value, op: str) -> Node | None:
    """Name places along one dim that occur once, so that the order of writing is no matter."""
    axis = d.pick(x.rank)
    if not all(map(x.is_static, range(x.rank))):
        return None
    rows = d.rng.permuted(np.indices(x.shape)[axis], axis=axis)
    count = 1 + d.pick(x.shape[axis])
    node = shuffled(d, x, op, np.take(rows, range(count), axis))
    return node._replace(attributes={"axis": axis})


def gather_nd(d: Draft, x: Value) -> Node | None:
    """Take places of x that follow each other, or one place in two dims."""
    if not x.rank or not x.is_static(0):
        return None
    first = d.pick(x.shape[0])
    rows = np.arange(first, first + 1 + d.pick(x.shape[0] - first)).reshape(-1, 1)
    if x.rank > 1 and x.is_static(1) and d.pick(3) == 0:
        rows = np.array([first, d.pick(x.shape[1])])
    return Node("GatherND", [x.name, d.constant(rows - d.pick(2) * x.shape[0] * (rows.ndim - 1))])


def recurrent(d: Draft, x: Value, op: str) -> Node | None:
    """Go along the first dim of x, from nothing or from a state, to the end or so far."""
    if x.rank != 3 or not x.is_static(2) or x.dtype != np.float32:
        return None
    way = d.one(("forward", "reverse", "bidirectional"))
    hidden, sides = d.width(), 1 + (way == "bidirectional")
    rows = {"LSTM": 4, "GRU": 3, "RNN": 1}[op] * hidden
    names = [x.name, d.weight(sides, rows, x.shape[2]), d.weight(sides, rows, hidden)]
    names.append(d.weight(sides, 2 * rows) if d.pick(2) else "")
    batch = min(run.shape[1] for run in x.arrays)
    is_fixed = x.is_static(1)
    steps = min(run.shape[0] for run in x.arrays)
    lengths = d.rng.integers(0, steps + 1, batch).astype(np.int32)
    names.append(d.constant(lengths) if is_fixed and d.pick(2) else "")
    states = 1 + (op == "LSTM")
    names += [
        d.weight(sides, batch, hidden) if is_fixed and d.pick(2) else "" for _ in range(states)
    ]
    names += [d.weight(sides, 3 * hidden)] if op == "LSTM" and d.pick(2) else []
    given: dict[str, Any] = {"hidden_size": hidden, "direction": way}
    given |= {"clip": 0.8} if d.pick(4) == 0 else {}
    given |= {"linear_before_reset": d.pick(2)} if op == "GRU" else {}
    given |= {"input_forget": d.pick(2)} if op == "LSTM" else {}
    return Node(op, names, given, 1 + states)


SPECIAL: dict[str, Special] = {
    "BatchNormalization": batch_normalization,
    "Concat": concat,
    "ConstantOfShape": constant_of_shape,
    "Conv": lambda d, x: _convolution(d, x, "Conv"),
    "ConvTranspose": lambda d, x: _convolution(d, x, "ConvTranspose"),
    "Einsum": einsum,
    "Expand": expand,
    "Gather": gather,
    "GatherElements": lambda d, x: elements(d, x, "GatherElements"),
    "GatherND": gather_nd,
    "GRU": lambda d, x: recurrent(d, x, "GRU"),
    "Gemm": gemm,
    "LSTM": lambda d, x: recurrent(d, x, "LSTM"),
    "MatMul": matmul,
    "Pad": pad,
    "RNN": lambda d, x: recurrent(d, x, "RNN"),
    "Reshape": reshape,
    "ScatterElements": lambda d, x: elements(d, x, "ScatterElements"),
    "Slice": slice_,
    "Split": split,
    "Tile": tile,
    "Where": where,
}

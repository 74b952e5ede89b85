"""Attention scales in half precision: two factors whose product is the scale, for queries and for keys.

torch's exporter multiplies queries and keys by the root of the scale. Rounded to bf16 the root is up to 0.2 % off, the
same way in both, so all logits are up to 0.5 % too small or too large: by 0.25 % with heads of 32 channels, by 0.49 %
with the 112 of SANA-1.5. Two different factors can come as close to the scale as if it had 13 significant bits or more.
"""

import math

import onnx_ir as ir
import torch

_HALVES = {ir.DataType.BFLOAT16: torch.bfloat16, ir.DataType.FLOAT16: torch.float16}
_ROUNDED = 2.0**-7  # relative; bf16 rounds by up to 2^-9, and the exporter rounds the scale before its root, too


def correct_attention_scales(graph: ir.Graph) -> None:
    """Replace the rounded roots in softmax(root queries (root keys)' + bias) in half precision by `scale_factors`."""
    for softmax in [node for node in graph if node.op_type == "Softmax"]:
        sides = _scaled_sides(softmax)
        query = sides[0].inputs[0] if len(sides) == 2 else None
        if query is None or query.shape is None or query.dtype not in _HALVES:
            continue
        channels = query.shape[-1]
        if isinstance(channels, int) and all(_is_root(side.inputs[1], channels) for side in sides):
            for side, factor in zip(sides, scale_factors(channels, _HALVES[query.dtype]), strict=True):
                _multiply_by(side, factor, graph)


def scale_factors(channels: int, dtype: torch.dtype) -> tuple[float, float]:
    """Two values of `dtype` whose product is 1 / sqrt(channels) as exactly as possible, each about the root of that."""
    scale = channels**-0.5
    edges = torch.tensor([math.sqrt(scale / 2), math.sqrt(scale * 2)]).to(dtype).view(torch.int16)
    first = torch.arange(int(edges[0]), int(edges[1]) + 1, dtype=torch.int16).view(dtype)  # all values in between
    second = (scale / first.double()).to(dtype)
    best = int((first.double() * second.double() - scale).abs().argmin())
    return float(first[best]), float(second[best])


def _scaled_sides(softmax: ir.Node) -> list[ir.Node]:
    """The multiplications whose products a softmax's matrix product takes; less than two if it isn't such a softmax."""
    before = _producer(softmax, 0)
    if before is not None and before.op_type == "Add":
        before = _producer(before, 0)
    if before is None or before.op_type != "MatMul":
        return []
    sides = [_producer(before, place) for place in (0, 1)]
    return [side for side in sides if side is not None and side.op_type == "Mul"]


def _producer(node: ir.Node, place: int) -> ir.Node | None:
    value = node.inputs[place]
    return value.producer() if value is not None else None


def _is_root(value: ir.Value | None, channels: int) -> bool:
    """Whether this is a constant, the rounded root of the usual scale of heads with so many channels."""
    constant = value.const_value if value is not None else None
    if constant is None or constant.size != 1:
        return False
    return math.isclose(float(constant.numpy().item()), channels**-0.25, rel_tol=_ROUNDED)


def _multiply_by(node: ir.Node, factor: float, graph: ir.Graph) -> None:
    """Multiply by `factor` instead of the constant that `node` multiplies by."""
    old = node.inputs[1]
    assert old is not None
    new = ir.Value(name=f"{old.name}.factor", shape=ir.Shape(()), type=old.type)
    new.const_value = ir.tensor(factor, dtype=old.dtype, name=new.name)
    graph.initializers.add(new)
    node.replace_input_with(1, new)
    if not old.uses():
        graph.initializers.pop(old.name or "")

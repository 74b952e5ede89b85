"""The bytes of new tensors: a constant, or normal noise that is a function of identity and position alone.

Elements come in pairs. Pair i of a tensor is drawn by the two bytes at 2 i of BLAKE3's output stream for the tensor's
identity: any part can be generated at any time, in any order, with the same result. A draw u in 0..65535 stands for the
quantile (u + 1/2) / 65536 of the normal distribution, and for that of (40503 u + 30784) mod 65536: 65,536 points that
are spread over the plane as two independent values would be, their moments uncorrelated to 0.0012 up to the fourth. So
a value is one of 65,536 and never beyond 4.33 standard deviations. The dtype only rounds it: the noise of an fp32
checkpoint, rounded, is that of its bf16 twin.
"""

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from blake3 import blake3

from sanac.core import json_files
from sanac.core.checkpoint.lora import store
from sanac.core.family.architecture import TensorInit
from sanac.core.file_copy import MAKE_STEP, GeneratedBytes
from sanac.core.safetensors_header import DTYPE_BITS
from sanac.core.write.safetensors_writer import TensorSource

if TYPE_CHECKING:  # numpy takes longer to import than a header to read: only noise needs it
    import numpy as np
    import numpy.typing as npt

    Bits = npt.NDArray[np.void]

_BATCH = 1 << 14  # pairs: table, draws and indices stay in the core's own cache
_DRAWS = 1 << 16
_STRIDE, _OFFSET = 40503, 30784  # 65536 by the golden ratio; the offset with the least correlation


def new_tensor(
    name: str, dtype: str, shape: tuple[int, ...], start: TensorInit, identity: Sequence[str | int] = ()
) -> TensorSource:
    """A new tensor. The noise depends on `identity` alone: equal identities give equal noise under any tensor name."""
    size = math.prod(shape) * DTYPE_BITS[dtype] // 8
    noise = functools.partial(_noise, json_files.canonical(["sanac", *identity]), dtype, start)
    constant = functools.partial(_constant, dtype, start)
    return TensorSource(
        name, dtype, shape, (GeneratedBytes(name, size, noise if start.deviation else constant, MAKE_STEP),)
    )


def _constant(dtype: str, start: TensorInit, _position: int, count: int) -> bytes:
    return _repeated(dtype, start, count)


@functools.lru_cache(maxsize=4)  # the same full step repeats
def _repeated(dtype: str, start: TensorInit, count: int) -> bytes:
    import numpy as np

    return store(np.full(count * 8 // DTYPE_BITS[dtype], start.constant, np.float32), dtype)


def _noise(identity: bytes, dtype: str, start: TensorInit, position: int, count: int) -> memoryview:
    import numpy as np

    table, stream = _table(dtype, start), blake3(identity)
    first, last = position // table.itemsize, -(-(position + count) // table.itemsize)
    out = np.empty(last - first, table.dtype)
    places = np.empty(_BATCH, np.intp)
    for done in range(0, len(out), _BATCH):
        batch = out[done : done + _BATCH]
        draws = np.frombuffer(stream.digest(2 * len(batch), seek=2 * (first + done)), "<u2")
        places[: len(draws)] = draws
        table.take(places[: len(draws)], out=batch, mode="clip")  # "raise", the default, buffers `out`
    before = position - first * table.itemsize
    return out.view(np.uint8).data[before : before + count]


@functools.cache
def _table(dtype: str, start: TensorInit) -> "Bits":
    """The bit patterns of the pair for each draw. The lower half mirrors the upper one: the mean is exact."""
    from statistics import NormalDist

    import numpy as np

    upper = [NormalDist().inv_cdf((draw + 0.5) / _DRAWS) for draw in range(_DRAWS // 2, _DRAWS)]
    noise = np.array([*(-value for value in reversed(upper)), *upper])
    values = (start.constant + start.deviation * noise).astype(np.float32)
    draws = np.arange(_DRAWS)
    pairs = np.stack([values, values[(draws * _STRIDE + _OFFSET) % _DRAWS]], axis=1)
    size = DTYPE_BITS[dtype] // 8
    return np.frombuffer(store(pairs, dtype), f"V{2 * size}")

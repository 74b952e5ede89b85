"""What the writer lays out is what the safetensors library and diffusers read."""

from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from sanac.core.artifact.staging import open_stage
from sanac.core.progress import NULL_REPORTER
from sanac.core.safetensors_header import DTYPE_BITS, TensorRef, read_header
from sanac.core.write.safetensors_writer import (
    TensorSource,
    _alignment,
    copied_tensor,
    encode_header,
    shard_names,
    split,
    write_weights,
)

KEY = "0" * 64


def piece(name: str, dtype: str, count: int) -> TensorSource:
    return copied_tensor(name, TensorRef(name, dtype, (count,), Path("x"), 0, count * DTYPE_BITS[dtype] // 8))


@given(
    st.lists(st.tuples(st.sampled_from(["F32", "BF16", "I8", "F64"]), st.integers(0, 50)), max_size=30),
    st.integers(1, 500),
)
def test_shards_hold_everything_once_aligned_and_within_the_limit(items: list[tuple[str, int]], limit: int) -> None:
    pieces = [piece(str(index), dtype, count) for index, (dtype, count) in enumerate(items)]
    shards = split(pieces, limit)
    assert sorted(p.name for shard in shards for p in shard) == sorted(p.name for p in pieces)
    for shard in (sorted(shard, key=_alignment) for shard in shards):
        assert sum(p.size for p in shard) <= limit or len([p for p in shard if p.size]) == 1
        position = len(encode_header(shard))
        for p in shard:
            assert position % (DTYPE_BITS[p.dtype] // 8) == 0
            position += p.size


@pytest.mark.parametrize("shard_bytes", [10**9, 300])
def test_the_library_reads_mixed_types_back(shard_bytes: int, tmp_path: Path) -> None:
    tensors = {
        "a": torch.arange(7, dtype=torch.int8),
        "b": torch.randn(3, 5),
        "c": torch.randn(11).bfloat16(),
        "d": torch.zeros(0, 2),
        "e": torch.randn(100),
    }
    source = tmp_path / "source.safetensors"
    safetensors.torch.save_file(tensors, source)
    pieces = [copied_tensor(f"new.{name}", ref) for name, ref in read_header(source).tensors.items()]
    with open_stage(tmp_path / "out", KEY, fresh=False) as stage:
        digests = write_weights(stage, "transformer", pieces, shard_bytes=shard_bytes, reporter=NULL_REPORTER)
        files = sorted((stage.partial / "transformer").glob("*.safetensors"))
        found = {name: t for path in files for name, t in safetensors.torch.load_file(path).items()}
    assert len(files) == (1 if shard_bytes > 300 else 3)
    assert set(digests) == set(found) == {f"new.{name}" for name in tensors}
    assert all(torch.equal(found[f"new.{name}"], tensor) for name, tensor in tensors.items())


def test_names_are_those_of_diffusers() -> None:
    assert shard_names(1) == ["diffusion_pytorch_model.safetensors"]
    assert shard_names(3)[1] == "diffusion_pytorch_model-00002-of-00003.safetensors"


def test_tensors_that_belong_together_lie_in_one_shard() -> None:
    pieces = [replace(piece(name, "U8", 6), with_next=name in "ab") for name in ("x", "a", "b", "c", "y")]
    assert [[found.name for found in shard] for shard in split(pieces, 13)] == [["x", "a", "b", "c"], ["y"]]

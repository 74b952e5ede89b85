"""The header parser agrees with the safetensors library on what is right, and survives what is wrong."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from sanac.core.errors import InvalidInput
from sanac.core.safetensors_header import read_header


def encode(entries: Any, data: bytes = b"", *, length: int | None = None) -> bytes:
    raw = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return (len(raw) if length is None else length).to_bytes(8, "little") + raw + data


def entry(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_agrees_with_the_library(tmp_path: Path) -> None:
    tensors = {
        "a": torch.randn(3, 4),
        "b": torch.randn(5).bfloat16(),
        "c": torch.zeros(0, 7),
        "d": torch.arange(9, dtype=torch.int64),
        "e": torch.randn(6).to(torch.float8_e4m3fn),
    }
    path = tmp_path / "x.safetensors"
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    header = read_header(path)
    assert header.metadata == {"format": "pt"}
    assert {name: ref.shape for name, ref in header.tensors.items()} == {n: tuple(t.shape) for n, t in tensors.items()}
    for name, ref in header.tensors.items():
        data = path.read_bytes()[ref.start : ref.start + ref.size]
        assert data == tensors[name].view(torch.uint8).numpy().tobytes() if ref.count else ref.size == 0


BAD = {
    "empty file": b"",
    "three bytes": b"abc",
    "length beyond the file": encode({}, length=1000),
    "length of all ones": b"\xff" * 8 + b"{}",
    "not JSON": encode(b"not json"),
    "not UTF-8": encode(b'{"\xff": 1}'),
    "a list": encode([1, 2]),
    "duplicate keys": encode(b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"a":1}'),
    "NaN in it": encode(b'{"a":NaN}'),
    "nested without end": encode(b'{"a":' + b"[" * 100_000),
    "a huge integer": encode(b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,0]}}'),
    "metadata of numbers": encode({"__metadata__": {"a": 1}}),
    "metadata is a list": encode({"__metadata__": []}),
    "entry is a string": encode({"a": "b"}),
    "entry lacks its shape": encode({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, b"x" * 8),
    "entry has something else": encode({"a": entry() | {"more": 1}}, b"x" * 8),
    "unknown dtype": encode({"a": entry("F31")}, b"x" * 8),
    "dtype is a list": encode({"a": entry() | {"dtype": ["F32"]}}, b"x" * 8),
    "negative shape": encode({"a": entry(shape=(-2,))}, b"x" * 8),
    "boolean shape": encode({"a": entry(shape=(True, 2))}, b"x" * 8),
    "float shape": encode({"a": entry(shape=(2.0,))}, b"x" * 8),
    "shape that overflows": encode({"a": entry(shape=(2**61, 2**61))}, b"x" * 8),
    "range too small": encode({"a": entry(offsets=(0, 4))}, b"x" * 4),
    "range runs backwards": encode({"a": entry(offsets=(8, 0))}, b"x" * 8),
    "negative range": encode({"a": entry(offsets=(-8, 0))}, b"x" * 8),
    "three offsets": encode({"a": entry(offsets=(0, 8, 8))}, b"x" * 8),
    "range beyond the file": encode({"a": entry(offsets=(8, 16))}, b"x" * 8),
    "cut off": encode({"a": entry()}, b"x" * 7),
    "bytes too many": encode({"a": entry()}, b"x" * 9),
    "a hole": encode({"a": entry(), "b": entry(offsets=(12, 20))}, b"x" * 20),
    "an overlap": encode({"a": entry(), "b": entry(offsets=(4, 12))}, b"x" * 12),
    "the same range twice": encode({"a": entry(), "b": entry()}, b"x" * 8),
}


@pytest.mark.parametrize("name", BAD)
def test_refuses(name: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(BAD[name])
    with pytest.raises(InvalidInput) as caught:
        read_header(path)
    assert caught.value.why
    assert path.read_bytes() == BAD[name]


def test_a_folder_or_nothing_is_no_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(InvalidInput, match="cannot read"):
            read_header(path)


@given(data=st.binary(max_size=200), where=st.integers(0, 250))
def test_damage_anywhere_is_an_answer_not_a_crash(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, where: int
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "x.safetensors"
    good = encode({"a": entry(), "b": entry(offsets=(8, 16))}, b"x" * 16)
    path.write_bytes(good[:where] + data + good[where + len(data) :])
    code = 0
    try:
        read_header(path)
    except InvalidInput as error:
        code = error.exit_code
    assert code in {0, 3}

"""Reading .pth files: torch's own are read right, hostile ones are refused without running anything."""

import os
import pickle  # noqa: TID251
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sanac.core.checkpoint.pth_reader import read_pth
from sanac.core.checkpoint.weights import open_file
from sanac.core.errors import InvalidInput
from tests.conftest import Sanac


def test_torch_s_files_are_read_right(tmp_path: Path) -> None:
    base = torch.randn(6, 4)
    tensors = {
        "f32": torch.randn(3, 5), "bf16": torch.randn(7).bfloat16(), "f16": torch.randn(2, 2).half(),
        "i64": torch.arange(5), "bool": torch.tensor([True, False]), "scalar": torch.tensor(3.0),
        "empty": torch.zeros(0, 4), "rows": base[2:4], "shared": base, "parameter": torch.nn.Parameter(torch.randn(3)),
        "one row": torch.randn(4, 8)[:, :1].T.contiguous(), "fp8 left": torch.randn(4),
    }  # fmt: skip
    torch.save(
        {"state_dict": OrderedDict(tensors), "step": 3, "rng": np.float64(2.0), "args": None}, tmp_path / "x.pth"
    )
    contents = read_pth(tmp_path / "x.pth")
    data = (tmp_path / "x.pth").read_bytes()
    assert set(contents.groups) == {"state_dict"}
    assert contents.keys == ("state_dict", "step", "rng", "args")
    for name, ref in contents.groups["state_dict"].items():
        tensor = tensors[name].detach()
        assert ref.shape == tuple(tensor.shape)
        raw = tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.ndim else tensor.numpy().tobytes()
        assert data[ref.start : ref.start + ref.size] == raw


def test_tensors_that_are_not_stored_row_by_row(tmp_path: Path) -> None:
    torch.save({"w": torch.randn(3, 4).T}, tmp_path / "x.pth")
    with pytest.raises(InvalidInput, match="is not contiguous"):
        read_pth(tmp_path / "x.pth")


class Evil:
    def __reduce__(self):
        return (os.system, ("touch /tmp/sanac-was-here",))


class Sneaky:
    def __reduce__(self):
        return (eval, ("__import__('os').system('touch /tmp/sanac-was-here')",))


def archive(path: Path, pickled: bytes, **entries: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, data in {"data.pkl": pickled, "byteorder": b"little", **entries}.items():
            file.writestr(f"archive/{name.replace('_', '/')}", data)
    return path


@pytest.mark.parametrize("thing", [Evil(), Sneaky(), {"state_dict": {"x": Evil()}}, [Sneaky()]])
def test_code_in_a_pth_is_not_run(thing: object, sanac: Sanac, tmp_path: Path) -> None:
    Path("/tmp/sanac-was-here").unlink(missing_ok=True)
    path = archive(tmp_path / "x.pth", pickle.dumps(thing))
    ran = sanac("inspect", path, "--json")
    assert ran.code == 3
    assert "could run code" in ran.json["error"]["message"]
    assert "system" in ran.json["error"]["why"] or "eval" in ran.json["error"]["why"]
    assert not Path("/tmp/sanac-was-here").exists()


STORAGE = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpuK%ctQ"
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + b"K\0%b%b\x89NtR"


def described(count: int, shape: bytes, stride: bytes) -> bytes:
    return b"\x80\2}X\1\0\0\0w" + TENSOR % (count, shape, stride) + b"s."


HOSTILE = {
    "empty": b"",
    "text": b"hello world",
    "bare pickle": pickle.dumps({"a": 1}),
    "legacy torch": b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.",
}
PICKLES = {
    "nothing": b"",
    "no stop": b"\x80\2}",
    "a list": pickle.dumps([1, 2]),
    "a number": pickle.dumps(3),
    "unknown opcode": b"\xff\xfe",
    "stack underflow": b"\x80\2tR.",
    "missing storage": described(4, b"(K\2K\2t", b"(K\2K\1t").replace(b"X\1\0\0\x000", b"X\1\0\0\x009"),
    "storage too small": described(9, b"(K\2K\2t", b"(K\2K\1t"),
    "beyond its storage": described(4, b"(K\3K\3t", b"(K\3K\1t"),
    "negative size": described(4, b"(J\xff\xff\xff\xffK\1t", b"(K\1K\1t"),
    "huge size": described(4, b"(\x8a\x0a\0\0\0\0\0\0\0\0\0\1K\1t", b"(K\1K\1t"),
    "shape of text": described(4, b"(X\1\0\0\0at", b"(K\1t"),
    "stride is none": described(4, b"(K\2K\2t", b"N"),
    "deep nesting": b"\x80\2" + b"(" * 200_000 + b"l" * 200_000 + b".",
    "memo bomb": b"\x80\2]q\0" + b"(h\0h\0lq\0" * 40 + b".",
    "a build on a type": b"\x80\2ccollections\nOrderedDict\n}X\1\0\0\0a}sb.",
    "a storage of code": b"\x80\2(X\7\0\0\0storagecos\nsystem\nX\1\0\0\x000X\3\0\0\0cpuK\4tQ.",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_files_that_are_no_pth(name: str, tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(HOSTILE[name])
    with pytest.raises(InvalidInput) as caught:
        open_file(tmp_path / "x.pth", tmp_path)
    assert caught.value.why


@pytest.mark.parametrize("name", PICKLES)
def test_pickles_that_describe_nothing(name: str, tmp_path: Path) -> None:
    path = archive(tmp_path / "x.pth", PICKLES[name], data_0=bytes(16))
    with pytest.raises(InvalidInput):
        open_file(path, tmp_path)


def test_the_template_of_the_hostile_pickles_is_right(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.pth", described(4, b"(K\2K\2t", b"(K\2K\1t"), data_0=bytes(16))
    assert open_file(path, tmp_path).tensors["w"].shape == (2, 2)


def test_archives_that_lie(tmp_path: Path) -> None:
    good = described(4, b"(K\2K\2t", b"(K\2K\1t")
    with zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/data.pkl", good)
    archive(tmp_path / "big-endian.pth", good, data_0=bytes(16))
    data = (tmp_path / "big-endian.pth").read_bytes()
    with zipfile.ZipFile(tmp_path / "big-endian.pth", "w") as file:
        file.writestr("a/data.pkl", good)
        file.writestr("a/byteorder", "big")
    with zipfile.ZipFile(tmp_path / "no-pickle.pth", "w") as file:
        file.writestr("a/data/0", bytes(16))
    with zipfile.ZipFile(tmp_path / "twice.pth", "w") as file:
        file.writestr("a/data.pkl", good)
        file.writestr("b/data.pkl", good)
    (tmp_path / "cut.pth").write_bytes(data[:-30])
    (tmp_path / "headless.pth").write_bytes(data.replace(b"PK\3\4", b"XX\3\4"))
    for path in sorted(tmp_path.glob("*.pth")):
        with pytest.raises(InvalidInput) as caught:
            read_pth(path)
        assert caught.value.why, path


def test_an_optimizer_checkpoint_is_called_one(tmp_path: Path) -> None:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.randn(3))])
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pth")
    with pytest.raises(InvalidInput, match="has no model weights") as caught:
        open_file(tmp_path / "optimizer.pth", tmp_path)
    assert "optimizer" in caught.value.why


@settings(max_examples=100, deadline=None)
@given(damage=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_damage_anywhere_is_an_answer(
    tmp_path_factory: pytest.TempPathFactory, damage: list[tuple[float, int]]
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "x.pth"
    data = bytearray(archive(path, described(4, b"(K\2K\2t", b"(K\2K\1t"), data_0=bytes(16)).read_bytes())
    for where, value in damage:
        data[min(len(data) - 1, int(where * len(data)))] = value
    path.write_bytes(data)
    code = 0
    try:
        read_pth(path)
    except InvalidInput as error:
        code = error.exit_code
    assert code in {0, 3}

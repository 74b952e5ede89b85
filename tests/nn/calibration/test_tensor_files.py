"""Caption embeddings in a file: what was encoded comes back, everything else is refused with its reason."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from sanac.core.errors import InvalidInput
from sanac.nn.calibration.tensor_files import open_captions, read_captions, write_captions
from sanac.nn.calibration.text_encoding import EncodedPrompts

WIDTH = 8
NAMES = ("embeddings", "mask", "empty", "empty_mask")


def tensors(prompts: int = 3, length: int = 5) -> dict[str, Tensor]:
    torch.manual_seed(0)
    mask = (torch.arange(length) < torch.arange(prompts)[:, None] % length + 1).long()
    mask[0] = 1
    empty = torch.randn(1, 2, WIDTH)
    return {
        "embeddings": torch.randn(prompts, length, WIDTH),
        "mask": mask,
        "empty": empty,
        "empty_mask": torch.ones(1, 2),
    }


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    captions = EncodedPrompts(*tensors().values())
    write_captions(captions, tmp_path / "new" / "captions.safetensors")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["captions.safetensors"]
    file = open_captions(tmp_path / "new" / "captions.safetensors", WIDTH)
    assert len(file) == 3
    for count in (None, 2):
        found, wanted = read_captions(file, count), captions.part(0, count or 3)
        assert all(torch.equal(getattr(found, name), getattr(wanted, name)) for name in NAMES)


def test_padding_that_no_prompt_needs_is_cut_off(tmp_path: Path) -> None:
    given = tensors()
    given["mask"][:, 3:] = 0
    save_file(given, tmp_path / "file.safetensors")
    found = read_captions(open_captions(tmp_path / "file.safetensors", WIDTH))
    assert found.embeddings.shape == (3, 3, WIDTH)


def _without(name: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda given: given.pop(name)


def _with(**changed: Tensor) -> Callable[[dict[str, Tensor]], object]:
    return lambda given: given.update(changed)


BAD = {
    "missing": (_without("empty"), "'empty' is missing"),
    "narrow": (
        _with(embeddings=torch.zeros(3, 5, 7)),
        r"has the shape \[3, 5, 7\] instead of \[any, any, 8\]",
    ),
    "flat": (_with(embeddings=torch.zeros(3, 40)), "instead of"),
    "none": (_with(embeddings=torch.zeros(0, 5, WIDTH), mask=torch.zeros(0, 5)), "instead of"),
    "other mask": (_with(mask=torch.ones(3, 4)), r"mask has the shape \[3, 4\], embeddings \[3, 5, 8\]"),
    "two empty ones": (_with(empty=torch.zeros(2, 2, WIDTH)), "empty has the shape"),
    "integers": (_with(embeddings=torch.zeros(3, 5, WIDTH, dtype=torch.int64)), "stored as I64"),
    "doubles": (_with(empty=torch.zeros(1, 2, WIDTH, dtype=torch.float64)), "stored as F64"),
    "bytes": (_with(mask=torch.ones(3, 5, dtype=torch.int8)), "stored as I8"),
}
POISONED = {
    "nan": (_with(embeddings=torch.full((3, 5, WIDTH), torch.nan)), "embeddings of .* has NaN"),
    "infinity": (_with(empty=torch.full((1, 2, WIDTH), torch.inf)), "empty of .* has NaN or infinity"),
    "no mask": (_with(mask=torch.full((3, 5), 0.5)), "not a mask"),
    "twos": (_with(mask=torch.full((3, 5), 2)), "not a mask"),
    "nan mask": (_with(mask=torch.full((3, 5), torch.nan)), "not a mask"),
    "hidden": (_with(mask=torch.eye(3, 5) * torch.tensor([[1.0], [0.0], [1.0]])), "masks a whole caption"),
}


@pytest.mark.parametrize("case", BAD)
def test_headers_that_do_not_fit(case: str, tmp_path: Path) -> None:
    change, says = BAD[case]
    made = tensors()
    change(made)
    save_file(made, tmp_path / "file.safetensors")
    with pytest.raises(InvalidInput) as caught:
        open_captions(tmp_path / "file.safetensors", WIDTH)
    assert any(re.search(says, problem) for problem in caught.value.problems), caught.value.problems


@pytest.mark.parametrize("case", POISONED)
def test_values_that_can_not_be_computed_with(case: str, tmp_path: Path) -> None:
    change, says = POISONED[case]
    made = tensors()
    change(made)
    save_file(made, tmp_path / "file.safetensors")
    file = open_captions(tmp_path / "file.safetensors", WIDTH)
    with pytest.raises(InvalidInput, match=says):
        read_captions(file)


@given(st.integers(0, 1200))
def test_a_file_that_was_cut_off(tmp_path_factory: pytest.TempPathFactory, size: int) -> None:
    path = tmp_path_factory.mktemp("cut") / "file.safetensors"
    save_file(tensors(), path)
    path.write_bytes(path.read_bytes()[: min(size, path.stat().st_size - 1)])
    with pytest.raises(InvalidInput):
        open_captions(path, WIDTH)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot read"):
        open_captions(tmp_path / "none", WIDTH)
    with pytest.raises(InvalidInput, match="cannot read"):
        open_captions(tmp_path, WIDTH)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidInput, match="cannot read"):
        open_captions(tmp_path / "pipe", WIDTH)


def test_a_file_that_changes_behind_our_back(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    save_file(tensors(), path)
    file = open_captions(path, WIDTH)
    path.write_bytes(b"")
    with pytest.raises(InvalidInput, match="cannot read embeddings"):
        read_captions(file)

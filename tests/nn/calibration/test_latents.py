"""The user's latents: many files are one list, and what does not fit is named."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sanac.core.artifact.model import open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.errors import InvalidInput
from sanac.core.family.architecture import Architecture
from sanac.nn.calibration.latents import open_latents
from sanac.nn.calibration.text_encoding import EncodedPrompts

EMPTY = EncodedPrompts(torch.zeros(1, 2, 64), torch.ones(1, 2), torch.zeros(1, 2, 64), torch.ones(1, 2))


@pytest.fixture(scope="module")
def architecture(pipeline: Path) -> Architecture:
    return open_model(locate(str(pipeline))).architecture


def latents(count: int, height: int = 4, width: int = 4, channels: int = 16) -> Tensor:
    return torch.randn(count, channels, height, width)


def captions(count: int, length: int) -> dict[str, Tensor]:
    return {"embeddings": torch.randn(count, length, 64), "mask": torch.ones(count, length, dtype=torch.bool)}


def test_files_are_one_list_in_the_order_of_their_names(tmp_path: Path, architecture: Architecture) -> None:
    parts = [latents(2, 4, 6), latents(3, 4, 6)]
    save_file({"latents": parts[1].half(), **captions(3, 5)}, tmp_path / "b.safetensors")
    save_file({"latents": parts[0], **captions(2, 7)}, tmp_path / "a.safetensors")
    (tmp_path / "notes.txt").write_text("not looked at")
    found = open_latents(tmp_path, architecture)
    assert (len(found), found.size, found.captioned) == (5, (4, 6), True)
    assert torch.equal(found.read(5), torch.cat([parts[0], parts[1].half().float()]))
    assert torch.equal(found.read(3), found.read(5)[:3])
    given = found.captions(EMPTY, 5)
    assert given.embeddings.shape == (5, 7, 64)
    assert given.mask.sum(1).tolist() == [7, 7, 5, 5, 5]


def test_without_captions_all_get_the_empty_one(tmp_path: Path, architecture: Architecture) -> None:
    save_file({"latents": latents(3)}, tmp_path / "a.safetensors")
    given = open_latents(tmp_path, architecture).captions(EMPTY, 2)
    assert given.embeddings.shape == (2, 2, 64)
    assert given.mask.shape == (2, 2)


def test_the_digest_is_of_what_they_hold(tmp_path: Path, architecture: Architecture) -> None:
    save_file({"latents": latents(1)}, tmp_path / "a.safetensors")
    before = open_latents(tmp_path, architecture).digest()
    (tmp_path / "a.safetensors").rename(tmp_path / "c.safetensors")
    assert open_latents(tmp_path, architecture).digest() == before
    save_file({"latents": latents(1)}, tmp_path / "c.safetensors")
    assert open_latents(tmp_path, architecture).digest() != before


BAD = {
    "channels": ([{"latents": latents(1, channels=4)}], "a0.safetensors: latents has the shape"),
    "no batch": ([{"latents": latents(1)[0]}], "has the shape"),
    "nothing": ([{"latents": latents(0)}], "has the shape"),
    "no latents": ([{"pictures": latents(1)}], "'latents' is missing"),
    "integers": ([{"latents": latents(1).long()}], "stored as I64"),
    "sizes": ([{"latents": latents(1)}, {"latents": latents(1, 8, 8)}], "4 x 4 in a0.safetensors, 8 x 8 in a1"),
    "no mask": ([{"latents": latents(1), "embeddings": torch.zeros(1, 2, 64)}], "'mask' is missing"),
    "wide": (
        [{"latents": latents(1), **captions(1, 2), "embeddings": torch.zeros(1, 2, 65)}],
        "embeddings has the shape",
    ),
    "counts": ([{"latents": latents(2), **captions(1, 2)}], "embeddings has the shape"),
    "half": ([{"latents": latents(1)}, {"latents": latents(1), **captions(1, 2)}], "a1.safetensors has embeddings, a0"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit(case: str, tmp_path: Path, architecture: Architecture) -> None:
    files, says = BAD[case]
    for number, tensors in enumerate(files):
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / f"a{number}.safetensors")
    with pytest.raises(InvalidInput) as caught:
        open_latents(tmp_path, architecture)
    assert any(says in problem for problem in caught.value.problems), caught.value.problems


def test_nan_is_named_with_its_number(tmp_path: Path, architecture: Architecture) -> None:
    given = latents(4)
    given[2, 0, 0, 0] = torch.nan
    save_file({"latents": given}, tmp_path / "a.safetensors")
    found = open_latents(tmp_path, architecture)
    assert found.read(2).shape == (2, 16, 4, 4)
    with pytest.raises(InvalidInput, match=r"latents of .* has NaN") as caught:
        found.read(3)
    assert "entry 2" in caught.value.why


def test_links_may_not_lead_out(tmp_path: Path, architecture: Architecture) -> None:
    (tmp_path / "in").mkdir()
    save_file({"latents": latents(1)}, tmp_path / "out.safetensors")
    save_file({"latents": latents(1)}, tmp_path / "in" / "a.safetensors")
    (tmp_path / "in" / "b.safetensors").symlink_to("a.safetensors")
    assert len(open_latents(tmp_path / "in", architecture)) == 2
    (tmp_path / "in" / "c.safetensors").symlink_to("../out.safetensors")
    with pytest.raises(InvalidInput, match="don't fit this model") as caught:
        open_latents(tmp_path / "in", architecture)
    assert "c.safetensors" in caught.value.problems[0]


def test_folders_that_are_none(tmp_path: Path, architecture: Architecture) -> None:
    with pytest.raises(InvalidInput, match=r"has no \.safetensors file"):
        open_latents(tmp_path, architecture)
    for path in (tmp_path / "none", tmp_path / "file"):
        (tmp_path / "file").write_text("")
        with pytest.raises(InvalidInput, match="cannot read the folder"):
            open_latents(path, architecture)
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(InvalidInput, match="don't fit this model"):
        open_latents(tmp_path, architecture)

"""Tensors are written whole or not at all, and a full disk is the user's news, not a bug."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from sanac.core.errors import MissingResource
from sanac.nn.save_tensors import save_tensors
from tests.core.test_atomic import full_disk


def test_whole_or_not_at_all(tmp_path: Path) -> None:
    path, weight = tmp_path / "w.safetensors", torch.nn.Parameter(torch.rand(30, 20).T)
    save_tensors({"weight": weight}, path, {"key": "k"})
    with full_disk(1000), pytest.raises(MissingResource, match="cannot write"):
        save_tensors({"other": torch.rand(1000)}, path)
    assert [*tmp_path.iterdir()] == [path]
    torch.testing.assert_close(load_file(path)["weight"], weight.detach())
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"key": "k"}

"""Weights by the block: the values of the file, two blocks of memory, what is stored in a way that can't be read."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.synthetic import SANA_4_8B, write_transformer
from sanac.core.artifact.model import open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.errors import InvalidInput
from sanac.core.family.architecture import block_name
from sanac.core.safetensors_header import read_header
from sanac.nn.blocks.block import POINT
from sanac.nn.streaming import Blocks, read_tensors

CPU = torch.device("cpu")
PEAK = """
import sys, threading, time
import torch
from sanac.core.checkpoint.locate import locate
from sanac.core.artifact.model import open_model
from sanac.nn.allocator import give_back_when_freed
from sanac.nn.streaming import Blocks
give_back_when_freed()  # as where memory is short: what is kept of what was freed is glibc's affair
def anonymous():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))
blocks = Blocks(open_model(locate(sys.argv[1])), torch.device("cpu"), torch.float32)
start = peak = anonymous()
def watch():
    global peak
    while True:
        peak = max(peak, anonymous())
        time.sleep(0.002)
threading.Thread(target=watch, daemon=True).start()
for _ in range(2):
    for index, tensors in blocks.sweep(range(len(blocks))):
        time.sleep(0.15)
        del tensors
print(peak - start)
"""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_values_are_those_of_the_file(dtype: torch.dtype, tmp_path: Path) -> None:
    made = {"a": torch.randn(3, 5), "b": torch.randn(7, 1, 2), "none": torch.zeros(0, 4), "c": torch.randn(1)}
    save_file({name: tensor.to(dtype) for name, tensor in made.items()}, tmp_path / "file.safetensors")
    refs = read_header(tmp_path / "file.safetensors").tensors
    for wanted in (torch.float32, torch.bfloat16):
        found = read_tensors(refs, CPU, wanted)
        assert found.keys() == made.keys()
        for name, tensor in made.items():
            assert torch.equal(found[name], tensor.to(dtype).to(wanted))
            assert found[name].is_contiguous()
            assert found[name].shape == tensor.shape


def test_a_sweep_begins_where_it_is_told_to(pipeline: Path) -> None:
    blocks = Blocks(open_model(locate(str(pipeline))), CPU, torch.float32)
    stored = load_file(pipeline / "transformer" / "diffusion_pytorch_model.safetensors")
    seen = []
    for index, tensors in blocks.sweep(range(4, 6)):
        seen.append(index)
        for name, tensor in tensors.items():
            assert torch.equal(tensor, stored[f"transformer_blocks.{index}.{name}"])
    assert seen == [4, 5]
    assert list(blocks.sweep(())) == []


def test_what_can_not_be_computed_with(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    save_file({"a": torch.zeros(4, dtype=torch.int32)}, path)
    with pytest.raises(InvalidInput, match="stored as I32"):
        read_tensors(read_header(path).tensors, CPU, torch.float32)
    save_file({"a": torch.zeros(400)}, path)
    refs = read_header(path).tensors
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(InvalidInput, match="is truncated"):
        read_tensors(refs, CPU, torch.float32)


def test_a_sweep_takes_two_blocks_of_memory(tmp_path: Path) -> None:
    narrow = dataclasses.replace(SANA_4_8B, blocks=4, width=1152, hidden=2880, cross_width=1152)
    write_transformer(tmp_path / "model", narrow)
    model = open_model(locate(str(tmp_path / "model")))
    block = 4 * sum(ref.count for ref in model.weights if ref.name.startswith("transformer_blocks.0."))
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path / "model")], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 2.4 * block, "two in fp32, and the bytes of one tensor on its way"


def test_changes_are_added_to_what_is_read(pipeline: Path) -> None:
    plain = Blocks(open_model(locate(str(pipeline))), CPU, torch.float32, resident=True)
    before = plain.block(1)[POINT].clone()
    outside, name = plain.outside(), "patch_embed.proj.bias"
    changed = plain.changed({block_name(1, POINT): torch.ones_like(before), name: torch.ones_like(outside[name])})
    assert torch.equal(changed.block(1)[POINT], before + 1)
    assert torch.equal(changed.outside()[name], outside[name] + 1)
    assert torch.equal(changed.block(2)[POINT], plain.block(2)[POINT])
    assert torch.equal(plain.block(1)[POINT], before)

"""Merged LoRAs: the same numbers as merging by hand, before and after pruning, in both naming styles."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from sanac.core.artifact.model import Model, open_model
from sanac.core.checkpoint import lora
from sanac.core.checkpoint.locate import locate
from sanac.core.checkpoint.lora import parse_word
from sanac.core.errors import InvalidInput, UsageError
from sanac.core.progress import NULL_REPORTER
from sanac.core.safetensors_header import read_header
from sanac.core.write.executor import write_partial
from sanac.core.write.job import WriteOptions
from sanac.prune.keep_list import plan_keep
from tests.conftest import Sanac

RANK = 4


def factors(module: str, out: int, into: int, conv: bool = False) -> dict[str, torch.Tensor]:
    tail = (1, 1) if conv else ()
    return {
        f"{module}.lora_A.weight": torch.randn(RANK, into, *tail) * 0.1,
        f"{module}.lora_B.weight": torch.randn(out, RANK, *tail) * 0.1,
    }


@pytest.fixture(scope="module")
def diffusers_lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    tensors: dict[str, torch.Tensor] = {}
    for block in range(6):
        start = f"transformer.transformer_blocks.{block}"
        tensors |= factors(f"{start}.attn1.to_q", 96, 96) | factors(f"{start}.attn2.to_out.0", 96, 96)
        tensors |= factors(f"{start}.ff.conv_inverted", 480, 96, conv=True)
    tensors |= factors("transformer.proj_out", 16, 96)
    tensors["transformer.proj_out.alpha"] = torch.tensor(2.0)
    path = tmp_path_factory.mktemp("lora") / "lora.safetensors"
    safetensors.torch.save_file(tensors, path)
    return path


def opened(path: Path, *loras: str) -> Model:
    return open_model(locate(str(path))).with_loras(loras)


def prune(model: Model, keep: str, out: Path) -> dict[str, torch.Tensor]:
    write_partial(plan_keep(model, keep, WriteOptions(transformer_only=True)), out, NULL_REPORTER)
    return safetensors.torch.load_file(out / "transformer" / "diffusion_pytorch_model.safetensors")


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_the_numbers_are_those_of_merging_by_hand(pipeline: Path, diffusers_lora: Path, tmp_path: Path) -> None:
    merged = prune(opened(pipeline, f"{diffusers_lora}:0.5"), "0-5", tmp_path / "out")
    before = prune(opened(pipeline), "0-5", tmp_path / "plain")
    change = safetensors.torch.load_file(diffusers_lora)
    touched = 0
    for name, tensor in before.items():
        module = f"transformer.{name.removesuffix('.weight')}"
        if f"{module}.lora_A.weight" in change:
            scale = 0.5 * (2.0 / RANK if "proj_out" in name else 1.0)
            up, down = change[f"{module}.lora_B.weight"].flatten(1), change[f"{module}.lora_A.weight"].flatten(1)
            expected = tensor + scale * (up @ down).reshape(tensor.shape)
            torch.testing.assert_close(merged[name], expected, rtol=1e-5, atol=1e-7)
            assert not torch.equal(merged[name], tensor)
            touched += 1
        else:
            assert torch.equal(merged[name], tensor)
    assert touched == 6 * 3 + 1


def test_merging_after_pruning_is_pruning_after_merging(pipeline: Path, diffusers_lora: Path, tmp_path: Path) -> None:
    prune(opened(pipeline), "1,3-5", tmp_path / "pruned")
    late = prune(opened(tmp_path / "pruned", str(diffusers_lora)), "0,2", tmp_path / "late")
    prune(opened(pipeline, str(diffusers_lora)), "0-5", tmp_path / "merged")
    early = prune(opened(tmp_path / "merged"), "1,4", tmp_path / "early")
    assert same(late, early)


def test_nvlabs_names_and_fused_rows(pipeline: Path, tmp_path: Path) -> None:
    torch.manual_seed(4)
    fused = factors("blocks.2.attn.qkv", 288, 96) | factors("blocks.2.cross_attn.kv_linear", 192, 96)
    split: dict[str, torch.Tensor] = {}
    for module, parts in {
        "blocks.2.attn.qkv": ["attn1.to_q", "attn1.to_k", "attn1.to_v"],
        "blocks.2.cross_attn.kv_linear": ["attn2.to_k", "attn2.to_v"],
    }.items():
        for row, part in enumerate(parts):
            name = f"base_model.model.transformer_blocks.2.{part}"
            split[f"{name}.lora_A.default.weight"] = fused[f"{module}.lora_A.weight"].clone()
            rows = fused[f"{module}.lora_B.weight"][row * 96 : (row + 1) * 96].contiguous()
            split[f"{name}.lora_B.default.weight"] = rows
    safetensors.torch.save_file(fused, tmp_path / "fused.safetensors")
    safetensors.torch.save_file(split, tmp_path / "split.safetensors")
    one = prune(opened(pipeline, str(tmp_path / "fused.safetensors")), "1-2", tmp_path / "one")
    two = prune(opened(pipeline, str(tmp_path / "split.safetensors")), "1-2", tmp_path / "two")
    assert same(one, two)
    plain = prune(opened(pipeline), "1-2", tmp_path / "plain")
    name = "transformer_blocks.1.attn1.to_v.weight"
    assert not torch.equal(one[name], plain[name])


def test_two_loras_add_up_and_the_key_knows_them(pipeline: Path, diffusers_lora: Path, tmp_path: Path) -> None:
    twice = opened(pipeline, f"{diffusers_lora}:0.25", f"{diffusers_lora}:0.25")
    once = opened(pipeline, f"{diffusers_lora}:0.5")
    left, right = prune(twice, "0", tmp_path / "a"), prune(once, "0", tmp_path / "b")
    for name in left:
        torch.testing.assert_close(left[name], right[name])
    assert len({twice.identity(), once.identity(), opened(pipeline).identity()}) == 3


@given(st.lists(st.floats(width=32, allow_infinity=False, allow_nan=True), min_size=1, max_size=50))
def test_bf16_rounds_as_torch_does(values: list[float]) -> None:
    tensor = torch.tensor(values)
    stored = torch.frombuffer(bytearray(lora.store(tensor.numpy(), "BF16")), dtype=torch.bfloat16)
    assert torch.equal(stored.nan_to_num(7.0), tensor.bfloat16().nan_to_num(7.0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_types_are_read_right(dtype: torch.dtype, tmp_path: Path) -> None:
    tensor = torch.randn(5, 3).to(dtype)
    safetensors.torch.save_file({"x": tensor}, tmp_path / "x.safetensors")
    ref = read_header(tmp_path / "x.safetensors").tensors["x"]
    assert torch.equal(torch.from_numpy(lora.load(ref)), tensor.float())
    assert lora.store(lora.load(ref), ref.dtype) == tensor.float().to(dtype).view(torch.uint8).numpy().tobytes()


def test_words(tmp_path: Path) -> None:
    assert parse_word("a.safetensors") == (Path("a.safetensors"), 1.0)
    assert parse_word("dir/a.safetensors:-0.5") == (Path("dir/a.safetensors"), -0.5)
    odd = tmp_path / "a:0.5"
    odd.touch()
    assert parse_word(str(odd)) == (odd, 1.0)
    for bad in ("a:b", "a:", "a:nan", "a:inf"):
        with pytest.raises(UsageError):
            parse_word(bad)


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        ({"something": torch.zeros(2)}, "something is not a LoRA factor"),
        ({}, "no tensors"),
        (factors("transformer_blocks.9.attn1.to_q", 96, 96), "is not in the model"),
        (factors("transformer_blocks.0.attn9.to_q", 96, 96), "is not in the model"),
        (factors("transformer_blocks.0.attn1.to_q", 95, 96), "factors are [95, 4]"),
        (factors("transformer_blocks.0.attn1.to_q", 96, 99), "and [4, 99]"),
        ({"proj_out.lora_A.weight": torch.zeros(4, 96)}, "only one of its two factors"),
        ({"proj_out.lora_A.weight": torch.zeros(4), "proj_out.lora_B.weight": torch.zeros(16, 4)}, "not matrices"),
        ({n: t.int() for n, t in factors("proj_out", 16, 96).items()}, "not matrices of floats"),
        (factors("blocks.0.attn.qkv", 287, 96), "equal parts"),
    ],
)
def test_loras_that_do_not_fit(
    tensors: dict[str, torch.Tensor], why: str, pipeline: Path, sanac: Sanac, tmp_path: Path
) -> None:
    safetensors.torch.save_file(tensors, tmp_path / "bad.safetensors")
    with pytest.raises(InvalidInput) as caught:
        opened(pipeline, str(tmp_path / "bad.safetensors"))
    assert why in caught.value.why
    assert sanac("prune", pipeline, "--keep", "0", "--lora", tmp_path / "bad.safetensors").code == 3
    assert not (tmp_path / "sanac-out").exists()


def test_a_lora_that_is_not_there(pipeline: Path, sanac: Sanac) -> None:
    assert sanac("prune", pipeline, "--keep", "0", "--lora", "nowhere.safetensors").code == 3
    assert sanac("prune", pipeline, "--keep", "0", "--lora", "nowhere.safetensors:x").code == 2

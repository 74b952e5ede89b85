"""Grown models in stock diffusers: what stays the same, bitwise; what is copied; what is new."""

import re
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sanac.core.artifact.model import open_model
from sanac.core.artifact.plan import BlockPlan, Keep, New, from_json, keep_blocks
from sanac.core.checkpoint.locate import locate
from sanac.core.errors import UsageError
from sanac.core.family import nvlabs
from sanac.core.family.architecture import init_of
from sanac.core.progress import NULL_REPORTER
from sanac.core.write.executor import write_partial
from sanac.core.write.job import WriteOptions, plan_artifact
from sanac.grow.depth import INITS, decide_growth, preserved
from tests.grow.conftest import ALONE, block, grow, load, prune, same, tensors, truncated, velocity


@pytest.mark.parametrize("preserve", [None, 1, 3, 6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_partial_computes_what_the_preserved_blocks_compute(
    preserve: int | None, dtype: torch.dtype, sharded: Path, tmp_path: Path
) -> None:
    grow(sharded, 10, tmp_path / "out", preserve=preserve)
    grown = load(tmp_path / "out", dtype)
    assert grown.config.num_layers == len(grown.transformer_blocks) == 10
    assert torch.equal(velocity(grown), velocity(truncated(sharded, preserve or 4, dtype)))
    assert preserve == 6 or not torch.equal(velocity(grown), velocity(load(sharded, dtype)))


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 6), st.integers(7, 12), st.integers(0, 2**31))
def test_any_growth_is_undone_by_pruning_and_computes_what_was_kept(
    pipeline: Path, tmp_path_factory: pytest.TempPathFactory, preserve: int, target: int, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("law")
    grow(pipeline, target, folder / "out", preserve=preserve, seed=seed)
    assert torch.equal(velocity(load(folder / "out")), velocity(truncated(pipeline, preserve)))
    kept = f"0-{preserve - 1}"
    prune(folder / "out", kept, folder / "back")
    prune(pipeline, kept, folder / "cut")
    assert same(tensors(folder / "back"), tensors(folder / "cut"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_new_block_is_the_identity_whatever_it_gets(dtype: torch.dtype, pipeline: Path, tmp_path: Path) -> None:
    grow(pipeline, 8, tmp_path / "out")
    grown = load(tmp_path / "out", dtype)
    torch.manual_seed(2)
    states = (10 * torch.randn(3, 24, 96)).to(dtype)
    more = {
        "encoder_hidden_states": torch.randn(3, 5, 96).to(dtype),
        "timestep": (5 * torch.randn(3, 6 * 96)).to(dtype),
        "height": 6,
        "width": 4,
    }
    with torch.no_grad():
        for index, layer in enumerate(grown.transformer_blocks):
            assert torch.equal(layer(states, **more), states) == (index >= 4)


def test_a_new_block_learns(pipeline: Path, tmp_path: Path) -> None:
    grow(pipeline, 7, tmp_path / "out")
    grown = load(tmp_path / "out")
    latents = torch.randn(1, grown.config.in_channels, 4, 4)
    out = grown(latents, encoder_hidden_states=torch.randn(1, 3, 64), timestep=torch.tensor([500.0])).sample
    out.square().mean().backward()
    new = grown.transformer_blocks[5]
    for weight in (new.attn1.to_out[0].weight, new.attn2.to_out[0].weight, new.ff.conv_point.weight):
        assert weight.grad.abs().max() > 0


# init_constant in NVlabs' model_growth_utils.py: the first name that the key contains decides.
NVLABS = (
    (("cross_attn.proj.weight", "attn.proj.weight", "mlp.point_conv.conv.weight"), (0.0, 0.0)),
    (("q_norm.weight", "k_norm.weight"), (1.0, 0.0)),
    (("attn.proj.bias", "cross_attn.q_linear.bias", "cross_attn.kv_linear.bias"), (0.0, 0.0)),
    (("mlp.depth_conv.conv.weight", "mlp.depth_conv.conv.bias"), (0.0, 0.2)),
    (("",), (0.0, 0.02)),
)


def test_new_tensors_start_as_nvlabs_code_has_them(pipeline: Path, tmp_path: Path) -> None:
    model = open_model(locate(str(pipeline)))
    for theirs, ours in nvlabs.sources(model.architecture).items():
        if match := re.fullmatch(r"blocks\.0\.(.+)", theirs):
            expected = next(start for words, start in NVLABS if any(word in match[1] for word in words))
            for name in ours:
                start = init_of(name.removeprefix("transformer_blocks.0."))
                assert (start.constant, start.deviation) == expected, name
    grow(pipeline, 9, tmp_path / "out")
    for index in range(4, 9):
        for name, tensor in block(tensors(tmp_path / "out"), index).items():
            start = init_of(name)
            if not start.deviation:
                assert torch.equal(tensor, torch.full_like(tensor, start.constant)), name
            else:
                assert abs(float(tensor.mean())) < 5 * start.deviation / tensor.numel() ** 0.5, name
                assert abs(float(tensor.std()) / start.deviation - 1) < 4 / tensor.numel() ** 0.5, name


def test_no_two_new_tensors_are_equal(pipeline: Path, tmp_path: Path) -> None:
    grow(pipeline, 12, tmp_path / "out")
    found = [t for i in range(4, 12) for n, t in block(tensors(tmp_path / "out"), i).items() if init_of(n).deviation]
    assert len({tensor.numpy().tobytes() for tensor in found}) == len(found) == 8 * 11


@pytest.mark.parametrize("target", [7, 12, 13, 18])
def test_copies_are_exactly_the_blocks_they_say(target: int, pipeline: Path, tmp_path: Path) -> None:
    before = tensors(pipeline)
    for init, rule in (("cyclic", lambda i: i % 6), ("replicate", lambda i: i * 6 // target)):
        manifest = grow(pipeline, target, tmp_path / init, init=init)
        after = tensors(tmp_path / init)
        assert manifest.origins == tuple(rule(i) for i in range(target))
        assert all(same(block(after, i), block(before, rule(i))) for i in range(target))
        assert load(tmp_path / init).config.num_layers == target


def test_replicate_repeats_in_place_and_uses_every_block(pipeline: Path) -> None:
    model = open_model(locate(str(pipeline)))
    for target in range(7, 40):
        sources = decide_growth(model, target, ALONE, init="replicate").plan.sources
        assert list(sources) == sorted(sources)
        counts = [sources.count(index) for index in range(6)]
        assert max(counts) - min(counts) <= (target % 6 > 0)
    assert sources[:7] == (0,) * 7  # 39 places for 6 blocks


def test_growing_and_dropping_the_new_blocks_changes_no_byte(pipeline: Path, tmp_path: Path) -> None:
    before = prune(pipeline, "0-5", tmp_path / "before")
    grow(pipeline, 11, tmp_path / "grown", preserve=6)
    after = prune(tmp_path / "grown", "0-5", tmp_path / "after")
    assert after.tensors == before.tensors
    assert after.origins == before.origins
    weights = "transformer/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "after" / weights).read_bytes() == (tmp_path / "before" / weights).read_bytes()


def test_a_new_block_keeps_its_bytes_through_pruning_and_growing(pipeline: Path, tmp_path: Path) -> None:
    grow(pipeline, 9, tmp_path / "grown")
    prune(tmp_path / "grown", "0-2,5,7", tmp_path / "pruned")
    manifest = grow(tmp_path / "pruned", 8, tmp_path / "again", preserve=5)
    grown, again = tensors(tmp_path / "grown"), tensors(tmp_path / "again")
    assert same(block(again, 3), block(grown, 5))
    assert same(block(again, 4), block(grown, 7))
    new = [block(again, index)["attn1.to_q.weight"].numpy().tobytes() for index in range(3, 8)]
    assert len(set(new)) == 5
    plan = manifest.whole_plan
    assert plan is not None
    assert plan.blocks == (*map(Keep, range(3)), *(New("partial", 0, number) for number in (5, 7, 6, 8, 9)))
    at_once = plan_artifact("grow", open_model(locate(str(pipeline))), plan, {}, ALONE)
    assert write_partial(at_once, tmp_path / "once", NULL_REPORTER)[1].tensors == manifest.tensors


def test_the_seed_decides_the_new_bytes_and_nothing_else(pipeline: Path, tmp_path: Path) -> None:
    first = grow(pipeline, 8, tmp_path / "a", seed=1).tensors["transformer"]
    again = grow(pipeline, 8, tmp_path / "b", seed=1, writing=WriteOptions(transformer_only=True, shard_bytes=10**5))
    other = grow(pipeline, 8, tmp_path / "c", seed=2).tensors["transformer"]
    assert again.tensors["transformer"] == first
    changed = {name for name in first if first[name] != other[name]}
    drawn = {f"transformer_blocks.{i}.{n}" for i in range(4, 8) for n in block(tensors(tmp_path / "a"), i)}
    assert changed == {name for name in drawn if init_of(name.split(".", 2)[2]).deviation}


def test_the_key_knows_init_seed_and_depth(pipeline: Path) -> None:
    model = open_model(locate(str(pipeline)))
    jobs = [
        decide_growth(model, 12, ALONE),
        decide_growth(model, 12, ALONE, seed=1),
        decide_growth(model, 12, ALONE, preserve=5),
        decide_growth(model, 13, ALONE),
        decide_growth(model, 12, ALONE, init="cyclic"),
        decide_growth(model, 12, ALONE, init="replicate"),
    ]
    assert len({job.key for job in jobs}) == len(jobs)
    assert decide_growth(model, 12, ALONE, preserve=4, qk_norm=True).key == jobs[0].key
    assert decide_growth(model, 12, ALONE, init="cyclic", seed=9).key == jobs[4].key


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_plan_of_growth_says_what_it_promises(data: st.DataObject, pipeline: Path) -> None:
    target = data.draw(st.integers(7, 200))
    init = data.draw(st.sampled_from(INITS))
    preserve = data.draw(st.none() | st.integers(1, 6)) if init == "partial" else None
    seed = data.draw(st.integers(0, 2**64))
    plan = decide_growth(open_model(locate(str(pipeline))), target, ALONE, init=init, preserve=preserve, seed=seed).plan
    assert from_json(plan.to_json(), "here") == plan
    assert (plan.source_blocks, len(plan.blocks), dict(plan.config)) == (6, target, {"num_layers": target})
    new = [origin for origin in plan.blocks if isinstance(origin, New)]
    assert len(set(new)) == len(new)
    kept = 6 if init != "partial" else preserve or 4
    assert plan.then(keep_blocks(target, sorted(map(plan.sources.index, range(kept))))).sources == tuple(range(kept))
    assert all(origin.seed == seed for origin in new)


def test_by_default_all_but_two_stay_and_at_least_one() -> None:
    assert [preserved(depth) for depth in (1, 2, 3, 4, 20)] == [1, 1, 1, 2, 18]


def test_qk_norm_is_added_as_ones(plain: Path, tmp_path: Path) -> None:
    grow(plain, 8, tmp_path / "out", qk_norm=True)
    before, after = tensors(plain), tensors(tmp_path / "out")
    norms = [name for name in after if ".norm_" in name]
    assert len(norms) == 8 * 4
    assert all(torch.equal(after[name], torch.ones_like(after[name])) for name in norms)
    for index in range(4):
        kept = {name: tensor for name, tensor in block(after, index).items() if ".norm_" not in name}
        assert same(kept, block(before, index))
    grown = load(tmp_path / "out")
    assert grown.config.qk_norm == "rms_norm_across_heads"
    assert grown.transformer_blocks[0].attn2.norm_k.weight.shape == (96,)
    assert torch.isfinite(velocity(grown)).all()
    assert not torch.equal(velocity(grown), velocity(truncated(plain, 4)))
    assert open_model(locate(str(tmp_path / "out"))).architecture.qk_norm


def test_without_qk_norm_none_is_made(plain: Path, tmp_path: Path) -> None:
    grow(plain, 8, tmp_path / "out")
    assert not any(".norm_" in name for name in tensors(tmp_path / "out"))
    assert torch.equal(velocity(load(tmp_path / "out")), velocity(truncated(plain, 4)))


@pytest.mark.parametrize("init", ["cyclic", "replicate"])
def test_qk_norm_with_copies(init: str, plain: Path, tmp_path: Path) -> None:
    grow(plain, 7, tmp_path / "out", qk_norm=True, init=init)
    assert load(tmp_path / "out").transformer_blocks[6].attn1.norm_q.weight.eq(1).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_new_tensors_have_the_checkpoint_s_own_type(dtype: torch.dtype, plain: Path, tmp_path: Path) -> None:
    load(plain, dtype).save_pretrained(tmp_path / "half")
    grow(tmp_path / "half", 8, tmp_path / "out", qk_norm=True)
    grow(plain, 8, tmp_path / "full", qk_norm=True)
    half, full = tensors(tmp_path / "out"), tensors(tmp_path / "full")
    assert {tensor.dtype for tensor in half.values()} == {dtype}
    assert all(same(block(half, i), {n: t.to(dtype) for n, t in block(full, i).items()}) for i in range(8))


def test_a_tensor_stored_wider_than_the_rest_stays_so(pipeline: Path, tmp_path: Path) -> None:
    model = load(pipeline, torch.bfloat16)
    for layer in model.transformer_blocks:
        layer.scale_shift_table.data = layer.scale_shift_table.data.float()
    model.save_pretrained(tmp_path / "mixed")
    grow(tmp_path / "mixed", 8, tmp_path / "out")
    new = block(tensors(tmp_path / "out"), 7)
    assert {name for name, tensor in new.items() if tensor.dtype == torch.float32} == {"scale_shift_table"}


@pytest.mark.parametrize(
    ("how", "problems"),
    [
        ({"target": 6}, ["--target-blocks 6 is not more than the model's 6"]),
        ({"target": 5}, ["--target-blocks 5 is not more than the model's 6"]),
        ({"target": 0, "preserve": 9}, ["--target-blocks 0", "--preserve 9 is not between 1 and 6"]),
        ({"target": -1, "init": "magic"}, ["--target-blocks -1", "--init magic is not one of"]),
        ({"target": 10**9}, ["above 1000"]),
        ({"target": 8, "preserve": 0}, ["--preserve 0"]),
        ({"target": 8, "preserve": 7}, ["--preserve 7 is not between"]),
        ({"target": 8, "init": "cyclic", "preserve": 7}, ["--preserve only applies to --init partial", "--preserve 7"]),
    ],
)
def test_what_cannot_be_grown_says_everything_at_once(how: dict, problems: list[str], pipeline: Path) -> None:
    with pytest.raises(UsageError) as caught:
        decide_growth(open_model(locate(str(pipeline))), how.pop("target"), ALONE, **how)
    assert len(caught.value.problems) == len(problems)
    assert all(word in problem for word, problem in zip(problems, caught.value.problems, strict=True))
    assert "--target-blocks 12" in caught.value.hint


def test_a_single_block_grows(tmp_path: Path) -> None:
    from sanac.tiny.build import transformer

    torch.manual_seed(0)
    transformer(1).save_pretrained(tmp_path / "one")
    grow(tmp_path / "one", 2, tmp_path / "out")
    assert torch.equal(velocity(load(tmp_path / "out")), velocity(load(tmp_path / "one")))


def test_plans_of_only_new_blocks_are_executed_too(pipeline: Path, tmp_path: Path) -> None:
    plan = BlockPlan(6, (New("partial", 0, 4), New("partial", 0, 5)), (("num_layers", 2),))
    write_partial(
        plan_artifact("grow", open_model(locate(str(pipeline))), plan, {}, ALONE), tmp_path / "out", NULL_REPORTER
    )
    grow(pipeline, 8, tmp_path / "grown")
    assert same(block(tensors(tmp_path / "out"), 1), block(tensors(tmp_path / "grown"), 5))

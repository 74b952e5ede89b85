"""What the teacher says: equal to stock diffusers, once per batch, continued after a stop; and who it is."""

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers import SanaTransformer2DModel
from safetensors.torch import save_file

from sanac.core.artifact.cached_step import run_step
from sanac.core.artifact.model import Model, open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.errors import InvalidInput, UsageError
from sanac.core.progress import NULL_REPORTER
from sanac.core.write.executor import write_partial
from sanac.core.write.job import WriteOptions
from sanac.finetune.batches import BatchSampler
from sanac.finetune.encoded_dataset import Prepared, open_prepared
from sanac.finetune.find_teacher import check_teacher, parent_of
from sanac.finetune.teacher_cache import TeacherPass
from sanac.nn.guidance import TIMESTEPS
from sanac.nn.streaming import Blocks
from sanac.prune.keep_list import plan_keep

DRAWING = BatchSampler(3, seed=1)


def write_part(folder: Path, name: str, count: int, *, tokens: int = 6, side: int = 4, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(count, tokens, dtype=torch.int64)
    mask[0, 3:] = 0
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        "latents": torch.randn(count, 16, side, side, generator=generator),
        "embeddings": torch.randn(count, tokens, 64, generator=generator).to(torch.bfloat16),
        "mask": mask,
        "empty": torch.randn(1, 2, 64, generator=generator),
        "empty_mask": torch.ones(1, 2, dtype=torch.int64),
    }
    save_file(tensors, folder / f"{name}.safetensors")


@pytest.fixture
def data(tmp_path: Path, pipeline: Path) -> Prepared:
    write_part(tmp_path / "data", "a", 5)
    write_part(tmp_path / "data", "b", 4, tokens=9, seed=1)
    return open_prepared(tmp_path / "data", open_model(locate(str(pipeline))).architecture)


def teaching(
    pipeline: Path, data: Prepared, folder: Path, exits: tuple[int, ...] = (1, 4), memory: int = 10**9, count: int = 4
) -> TeacherPass:
    model = open_model(locate(str(pipeline)))
    blocks = Blocks(model, torch.device("cpu"), torch.float32)
    config = model.transformer.config
    return TeacherPass(blocks, config, partial(DRAWING.draw, data), exits, memory, folder, "key", count)


@pytest.mark.parametrize("memory", [1, 10**9])
def test_it_says_what_the_stock_model_says(pipeline: Path, data: Prepared, tmp_path: Path, memory: int) -> None:
    lessons = run_step(teaching(pipeline, data, tmp_path / "said", memory=memory), NULL_REPORTER)
    stock = SanaTransformer2DModel.from_pretrained(pipeline, subfolder="transformer").eval()
    streams: list[torch.Tensor] = []
    for index in (1, 4):
        stock.transformer_blocks[index].register_forward_hook(lambda _m, _a, out: streams.append(out))
    for number in range(4):
        batch = DRAWING.draw(data, number)
        streams.clear()
        with torch.no_grad():
            expected = stock(
                batch.states,
                batch.samples.embeddings,
                batch.levels * TIMESTEPS,
                encoder_attention_mask=batch.samples.mask,
            ).sample
        assert torch.equal(lessons.velocity(number), expected.bfloat16().float())
        for stream, index in zip(streams, (1, 4), strict=True):
            assert torch.equal(lessons.stream(number, index), stream.bfloat16().float())


def test_what_was_said_is_not_asked_again(
    pipeline: Path, data: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    job = teaching(pipeline, data, tmp_path / "said", memory=1)
    draw = job.draw
    counting = replace(job, draw=lambda number: (asked.append(number), draw(number))[1])
    run_step(replace(counting, count=2), NULL_REPORTER)
    whole = run_step(counting, NULL_REPORTER)
    assert asked == [0, 0, 1, 0, 2, 3], "the first is looked at for its shape"
    fresh = run_step(replace(job, folder=tmp_path / "other"), NULL_REPORTER)
    assert all(torch.equal(whole.velocity(number), fresh.velocity(number)) for number in range(4))
    run_step(replace(counting, cache_key="another key", count=1), NULL_REPORTER)
    assert asked[-2:] == [0, 0]


def test_a_batch_is_its_number_s_alone(data: Prepared) -> None:
    one, again, other = DRAWING.draw(data, 5), DRAWING.draw(data, 5), DRAWING.draw(data, 6)
    assert torch.equal(one.states, again.states)
    assert not torch.equal(one.noise, other.noise)
    assert not torch.equal(replace(DRAWING, seed=2).draw(data, 5).noise, one.noise)


def test_dropped_captions_are_the_empty_one(data: Prepared) -> None:
    batch = replace(DRAWING, caption_dropout=1.0).draw(data, 0)
    assert torch.equal(batch.samples.embeddings, data.empty[0].expand(3, -1, -1))
    samples = data.pick([0, 7], [False, True])
    assert samples.mask.tolist() == [[1, 1, 1], [1, 1, 0]], "no longer than the longest here"
    assert samples.embeddings[1, 2].abs().max() == 0


def test_samples_are_found_in_their_parts(data: Prepared) -> None:
    assert len(data) == 9
    picked = data.pick([4, 5, 8], [False] * 3)
    parts = [file.read("latents") for file in data.latents.files]
    assert torch.equal(picked.latents, torch.stack([parts[0][4], parts[1][0], parts[1][3]]))


def test_nan_in_the_data_is_named(tmp_path: Path, pipeline: Path) -> None:
    write_part(tmp_path / "data", "a", 5)
    from safetensors.torch import load_file

    tensors = load_file(tmp_path / "data" / "a.safetensors")
    tensors["latents"][3, 0, 0, 0] = torch.nan
    save_file(tensors, tmp_path / "data" / "a.safetensors")
    data = open_prepared(tmp_path / "data", open_model(locate(str(pipeline))).architecture)
    with pytest.raises(InvalidInput, match="sample 3"):
        data.pick([1, 3], [False, False])


def pruned(pipeline: Path, keep: str, out: Path) -> Model:
    model = open_model(locate(str(pipeline)))
    write_partial(plan_keep(model, keep, WriteOptions()), out, NULL_REPORTER)
    return open_model(locate(str(out)))


def test_the_parent_is_what_nothing_was_dropped_from(pipeline: Path, tmp_path: Path) -> None:
    once = pruned(pipeline, "0-3", tmp_path / "once")
    twice = pruned(tmp_path / "once", "0,2", tmp_path / "twice")
    for model in (once, twice):
        found = parent_of(model)
        assert found is not None
        assert found.located.path == pipeline
    assert parent_of(open_model(locate(str(pipeline)))) is None


def test_a_parent_that_is_gone_or_changed_is_not_taken(pipeline: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(pipeline, tmp_path / "source"))
    model = pruned(source, "0-3", tmp_path / "small")
    (source / "transformer" / "diffusion_pytorch_model.safetensors").touch()
    with pytest.raises(UsageError, match="is not the model that"):
        parent_of(model)
    shutil.rmtree(source)
    with pytest.raises(UsageError, match="can't be opened") as caught:
        parent_of(model)
    assert "--teacher" in caught.value.hint


def test_a_teacher_of_another_family_is_refused(pipeline: Path, tmp_path: Path) -> None:
    from sanac.tiny.build import transformer

    transformer(2, width=64).save_pretrained(tmp_path / "narrow")
    with pytest.raises(InvalidInput, match="can't be the teacher of") as caught:
        check_teacher(open_model(locate(str(tmp_path / "narrow"))), open_model(locate(str(pipeline))))
    assert "hidden width" in caught.value.why

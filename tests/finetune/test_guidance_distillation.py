"""Guidance in the prompt's branch: what is learned, what the result says of itself, and what contradicts it."""

import json
from pathlib import Path

import pytest
import torch

from sanac.core.artifact.model import open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.safetensors_header import read_header
from sanac.finetune.encoded_dataset import open_prepared
from sanac.nn.guidance import ClassifierFree, Inside, branches_of, config_of, guidance_of
from tests.conftest import Sanac

SHORT = ("--steps", "2", "--batch", "4", "--samples", "4", "--teacher-steps", "3")
DISTILL = ("finetune", "sanac:tiny", "--distill-guidance", "4.5", *SHORT)


def velocities(folder: Path, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.frombuffer(bytearray((folder / name).read_bytes()), dtype=torch.bfloat16).view(shape).float()


def test_the_target_is_the_velocity_of_two_branches(sanac: Sanac, tmp_path: Path) -> None:
    """Against stock diffusers' transformer, run on both captions."""
    from diffusers import SanaTransformer2DModel

    from sanac.finetune.batches import BatchSampler
    from sanac.train.flow_matching import Times

    ran = sanac(*DISTILL, "--out", "distilled", "--workspace", "ws")
    assert ran.code == 0, ran.err
    model = open_model(locate("sanac:tiny"))
    data = open_prepared(next((tmp_path / "ws").glob("painted-*")), model.architecture)
    batch = BatchSampler(4, 0, Times(shift=3.0), 0.0).draw(data, 0)
    stock = SanaTransformer2DModel.from_pretrained(locate("sanac:tiny").path / "transformer", torch_dtype=torch.float32)
    empty = data.pick(batch.picked, [True] * 4)
    with torch.no_grad():
        outputs = [
            stock(
                batch.states,
                encoder_hidden_states=captions.embeddings,
                encoder_attention_mask=captions.mask,
                timestep=batch.levels * 1000,
                return_dict=False,
            )[0]
            for captions in (empty, batch.samples)
        ]
    (folder,) = (tmp_path / "ws").glob("teacher-*")
    found = velocities(folder, "velocity.bin", (2, *batch.states.shape))[0]
    torch.testing.assert_close(found, ClassifierFree(4.5).combined(outputs), rtol=2e-2, atol=2e-2)


def test_the_result_says_that_guidance_is_inside(sanac: Sanac, tmp_path: Path) -> None:
    assert sanac(*DISTILL, "--targets", "trajectories", "--out", "distilled").code == 0
    made = open_model(locate("distilled"))
    assert made.schedule is not None
    assert (made.schedule.guidance_inside, made.schedule.forwards) == (4.5, 120)
    assert branches_of(made) == 1
    assert isinstance(guidance_of(config_of(made)), Inside)
    assert "guidance of 4.5 inside" in (tmp_path / "distilled" / "README.md").read_text()
    assert (
        sanac(
            "prune",
            "distilled",
            "--target-blocks",
            "6",
            "--select",
            "bi",
            "--num-prompts",
            "2",
            "--timesteps",
            "4",
            "--out",
            "six",
        ).code
        == 0
    )
    six = open_model(locate("six"))
    assert six.schedule is not None
    assert (six.schedule.guidance_inside, six.schedule.forwards) == (4.5, 60)
    ran = sanac("finetune", "six", *SHORT, "--out", "recovered")
    assert ran.code == 0, ran.err
    again = open_model(locate("recovered"))
    assert again.schedule is not None
    assert again.schedule.guidance_inside == 4.5, "recovery keeps what is in the weights"


def test_trajectories_give_the_guided_velocity(sanac: Sanac, tmp_path: Path) -> None:
    from sanac.finetune.batches import TrajectorySampler
    from sanac.finetune.trajectories import open_trajectories

    assert sanac(*DISTILL, "--targets", "trajectories", "--out", "distilled", "--workspace", "ws").code == 0
    model = open_model(locate("sanac:tiny"))
    folder = next((tmp_path / "ws").glob("painted-*"))
    data = open_prepared(folder, model.architecture)
    recorded = open_trajectories(data.latents, model.architecture)
    assert recorded is not None
    batch = TrajectorySampler(4, recorded, 1000, 0, 0.0, ClassifierFree(4.5)).draw(data, 0)
    plain = TrajectorySampler(4, recorded, 1000, 0, 0.0).draw(data, 0)
    unprompted = TrajectorySampler(4, recorded, 1000, 0, 1.0).draw(data, 0)
    assert batch.targets is not None
    assert plain.targets is not None
    assert unprompted.targets is not None
    torch.testing.assert_close(batch.targets, unprompted.targets + 4.5 * (plain.targets - unprompted.targets))
    assert not torch.equal(plain.targets, unprompted.targets)
    assert "outputs" in read_header(next(folder.glob("*.safetensors"))).tensors


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--loss", "flow"), "learns by --loss distill alone"),
        (("--caption-dropout", "0.1"), "no caption is dropped"),
        (("--intervals",), "--distill-guidance and --intervals contradict each other"),
        (("--distill-guidance", "1"), "--distill-guidance"),
    ],
)
def test_what_contradicts_it(sanac: Sanac, words: tuple[str, ...], said: str) -> None:
    ran = sanac(*DISTILL, *words)
    assert ran.code == 2
    assert said in ran.err


def test_what_is_in_the_weights_is_not_lost(sanac: Sanac, tmp_path: Path) -> None:
    assert sanac(*DISTILL, "--out", "distilled").code == 0
    for words, said in (
        (
            ("distilled", "--teacher", "sanac:tiny", "--loss", "flow"),
            "can only be kept in the weights by --loss distill",
        ),
        (
            ("distilled", "--teacher", "sanac:tiny", "--distill-guidance", "3"),
            "4.5 is in the weights of the model already",
        ),
        (("sanac:tiny", "--teacher", "distilled"), "4.5 is in the teacher's weights"),
    ):
        ran = sanac("finetune", *words, *SHORT, "--out", "no")
        assert ran.code == 2, ran.out
        assert said in ran.err
    assert not (tmp_path / "no").exists()
    assert json.loads((tmp_path / "distilled" / "schedule.json").read_text())["guidance_inside"] == 4.5

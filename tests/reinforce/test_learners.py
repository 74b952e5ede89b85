"""The errors of both kinds of generator: their slopes, what they share within a prompt, and the reward's gradient."""

import copy
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from sanac.core.artifact.model import open_model
from sanac.core.artifact.token_model import TokenModel, open_any_model
from sanac.core.checkpoint.locate import locate
from sanac.core.confined import ConfinedPath
from sanac.core.errors import InvalidInput
from sanac.core.progress import NULL_REPORTER
from sanac.judge.preview_judge import JudgeShape, PreviewJudge, PreviewJudgeVerifier
from sanac.judge.verifier import Request
from sanac.nn.stock_loading import load_component
from sanac.reinforce.flow_learner import FlowLearner
from sanac.reinforce.groups import Group, Samples, group_file, load_group, save_group
from sanac.reinforce.learner import Learner, stacked
from sanac.reinforce.losses.dgpo import LARGEST
from sanac.reinforce.losses.prediction import Prediction
from sanac.reinforce.open_learner import add_token_lora
from sanac.reinforce.policy_training import PolicyTraining
from sanac.reinforce.reinforce_task import Objective, ReinforceTask
from sanac.reinforce.reward_guidance import RewardGuidance, frozen
from sanac.reinforce.token_learner import TokenLearner
from sanac.shapes.words import VOCABULARY
from sanac.tokens.networks import open_networks
from sanac.train.loop import Callbacks, Settings, train
from sanac.train.schedule import Schedule

PROMPTS = ("a red circle", "two blue squares", "a green cross")


def flow(pipeline: Path) -> FlowLearner:
    model = open_model(locate(str(pipeline)))
    network, vae = (load_component(model, name, torch.float32) for name in ("transformer", "vae"))
    return FlowLearner(network.train(), vae.requires_grad_(requires_grad=False), timesteps=1000)


def tokens(token_model: Path) -> TokenLearner:
    model = open_any_model(locate(str(token_model)))
    assert isinstance(model, TokenModel)
    networks = open_networks(model, "cpu")
    network = networks.transformer.train().requires_grad_(requires_grad=True)
    return TokenLearner(network, networks.images, networks.transformer.architecture)


def group(learner: Learner, prompt: str, scores: tuple[float, ...], seed: int) -> Group:
    generator = torch.Generator().manual_seed(seed)
    count = len(scores)
    if isinstance(learner, TokenLearner):
        samples = torch.randint(32, (count, 16), generator=generator).short()
        shape = learner.architecture
        text = torch.tensor([shape.marker("pad")] * 15 + [shape.marker("t2i"), 1, 3 + seed, 5, 9, 0])
        return Group(prompt, tuple(range(count)), scores, samples, {"text": text})
    samples = torch.randn(count, 16, 4, 4, generator=generator)
    length = 5 + seed
    condition = {"embeddings": torch.randn(length, 64, generator=generator), "mask": torch.ones(length)}
    return Group(prompt, tuple(range(count)), scores, samples, condition)


@pytest.fixture(params=["flow", "tokens"])
def learner(request: pytest.FixtureRequest, pipeline: Path, token_model: Path) -> Learner:
    return flow(pipeline) if request.param == "flow" else tokens(token_model)


def groups(learner: Learner) -> tuple[Group, ...]:
    scores = ((0.9, 0.1, 0.5, 0.2), (0.3, 0.8, 0.1, 0.1), (0.5, 0.5, 0.5, 0.5))
    return tuple(group(learner, *one, seed) for seed, one in enumerate(zip(PROMPTS, scores, strict=True)))


def drawn(learner: Learner) -> tuple[torch.Tensor, dict[str, torch.Tensor], object]:
    some = groups(learner)
    samples = torch.stack([one.samples for one in some])
    noising = learner.draw(samples.shape[2:], len(some), torch.Generator().manual_seed(3))
    return samples, stacked([one.condition for one in some]), noising


def test_the_slope_is_the_derivative_by_the_output(learner: Learner) -> None:
    samples, condition, noising = drawn(learner)
    found = learner.predict(learner.network, samples, condition, noising)
    assert found.error.shape == (3, 4)
    (slope,) = torch.autograd.grad(found.error.sum(), found.output)
    torch.testing.assert_close(found.slope, slope, atol=1e-6, rtol=1e-4)


def test_each_sample_has_its_own_error_whatever_is_beside_it(learner: Learner) -> None:
    samples, condition, noising = drawn(learner)
    with torch.no_grad():
        whole = learner.predict(learner.network, samples, condition, noising).error
        some = learner.predict(learner.network, samples[:, 1:3], condition, noising).error
    torch.testing.assert_close(whole[:, 1:3], some, atol=1e-5, rtol=1e-4)


def test_samples_that_are_alike_have_equal_errors(learner: Learner) -> None:
    """Noise level, noise and mask belong to the prompt."""
    samples, condition, noising = drawn(learner)
    alike = samples[:, :1].expand_as(samples)
    with torch.no_grad():
        error = learner.predict(learner.network, alike, condition, noising).error
    torch.testing.assert_close(error, error[:, :1].expand_as(error), atol=1e-5, rtol=1e-4)


def judge() -> PreviewJudge:
    torch.manual_seed(1)
    network = PreviewJudge(JudgeShape(VOCABULARY, side=16, width=16, heads=2, encoder_layers=1, decoder_layers=1))
    return frozen(network, torch.device("cpu"))


def test_the_reward_has_a_gradient_and_it_points_the_right_way(learner: Learner) -> None:
    """A small step along it raises the judge's probability of the very same noised samples."""
    samples, condition, noising = drawn(learner)
    reward = RewardGuidance(judge(), 1.0)

    def lost() -> torch.Tensor:
        found = learner.predict(learner.network, samples, condition, noising)
        return reward.loss(learner, found, samples, PROMPTS, noising)

    before = lost()
    before.backward()
    weights = [weight for weight in learner.network.parameters() if weight.grad is not None]
    size = torch.stack([weight.grad.norm() for weight in weights]).norm()
    assert size > 1e-6
    with torch.no_grad():
        for weight in weights:
            weight.sub_(1e-3 / size * weight.grad)
    assert float(lost().detach()) < float(before.detach())
    assert not any(weight.requires_grad for weight in reward.judge.parameters())


def test_images_are_the_decoded_samples_where_nothing_is_hidden(token_model: Path) -> None:
    learner = tokens(token_model)
    samples, condition, noising = drawn(learner)
    found = learner.predict(learner.network, samples, condition, noising)
    none = type(noising)(noising.level, torch.zeros_like(noising.noise))
    images = learner.images(found, samples, none)
    torch.testing.assert_close(images, learner.tokenizer.decode(samples.flatten(0, 1).long(), 4))


def task(learner: Learner, loss: str, **how: object) -> ReinforceTask:
    reference = copy.deepcopy(learner.network)
    samples = Samples({"verifier": "hand"}, groups(learner))
    return ReinforceTask(learner, reference, samples, Objective(loss, beta=20.0, **how), batch_size=4)


@pytest.mark.parametrize(
    ("kind", "change", "why"),
    [
        ("flow", {"samples": torch.zeros(4, 5, 4, 4)}, r"latents are \[5, 4, 4\]"),
        ("flow", {"samples": torch.zeros(4, 16, 4, 0)}, r"latents are \[16, 4, 0\]"),
        ("flow", {"samples": torch.zeros(4, 16)}, "not latents"),
        ("flow", {"samples": torch.zeros(3, 16, 4, 4)}, "the first prompt"),
        ("flow", {"samples": torch.zeros(4, 16, 4, 4, dtype=torch.int32)}, "not latents"),
        ("flow", {"condition": {}}, "text encoder"),
        ("flow", {"condition": {"embeddings": torch.zeros(5, 63), "mask": torch.ones(5)}}, "text encoder"),
        ("flow", {"condition": {"embeddings": torch.zeros(5, 64), "mask": torch.ones(4)}}, "its mask"),
        ("tokens", {"samples": torch.full((4, 16), 32)}, "from 0 to 31"),
        ("tokens", {"samples": torch.full((4, 16), -1)}, "from 0 to 31"),
        ("tokens", {"samples": torch.zeros(4, 17, dtype=torch.int32)}, "16 codes each"),
        ("tokens", {"samples": torch.zeros(4, 16)}, "16 codes each"),
        ("tokens", {"condition": {}}, "tokens"),
        ("tokens", {"condition": {"text": torch.full((21,), 10**6)}}, "vocabulary"),
        ("tokens", {"condition": {"text": torch.zeros(18, dtype=torch.int64)}}, "tokens"),
    ],
)
def test_samples_that_the_network_cannot_read_are_refused(
    pipeline: Path, token_model: Path, kind: str, change: dict[str, object], why: str
) -> None:
    learner = flow(pipeline) if kind == "flow" else tokens(token_model)
    some = groups(learner)
    wrong = (some[0], replace(some[1], **change), some[2])
    with pytest.raises(InvalidInput, match="the samples of prompt 1 can't be learned from") as raised:
        ReinforceTask(learner, learner.network, Samples({}, wrong), Objective("dpo", 1.0))
    assert re.search(why, raised.value.why)


LOSSES = ("rft", "dpo", "dgpo")


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("loss", [*LOSSES, "nft"])
def test_training_prefers_what_scored_better(learner: Learner, loss: str, tmp_path: Path) -> None:
    if loss == "nft" and isinstance(learner, TokenLearner):
        return
    found = task(learner, loss)
    assert len(found.groups) == 2 + (loss == "rft"), "the third prompt's samples score alike, and are accepted"
    samples, condition, noising = drawn(learner)

    def preference() -> float:
        with torch.no_grad():
            error = learner.predict(learner.network, samples, condition, noising).error
        return float((error[0, 1] - error[0, 0]) + (error[1, 2] - error[1, 1]))

    before = preference()
    plan = Settings(Schedule(5e-4, 12, warmup=1), average=0.0, weight_decay=0.0)
    train(found, plan, ConfinedPath(tmp_path), NULL_REPORTER)
    assert preference() > before


def gradients(run: ReinforceTask) -> dict[str, torch.Tensor]:
    """The gradients of a step's parts, which add up."""
    network = run.learner.network
    network.zero_grad()
    for part in run.losses(torch.Generator().manual_seed(5)):
        part.backward()
    return {name: weight.grad.clone() for name, weight in network.named_parameters() if weight.grad is not None}


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("loss", [*LOSSES, "nft"])
def test_micro_batches_add_up_to_the_batch(learner: Learner, loss: str) -> None:
    if loss == "nft" and isinstance(learner, TokenLearner):
        return
    how = {"kl": 0.1} if loss == "dgpo" else {}
    run = task(learner, loss, **how)
    run.reward = RewardGuidance(judge(), 0.1)
    whole = gradients(run)
    run.micro_batch = 3
    parts = gradients(run)
    assert whole.keys() == parts.keys()
    largest = max(float(value.abs().max()) for value in whole.values())
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, atol=1e-5 * largest, rtol=1e-3)


@pytest.mark.usefixtures("one_thread")
def test_without_its_adapters_a_network_is_its_own_reference(learner: Learner) -> None:
    run = task(learner, "dpo")
    if isinstance(learner, TokenLearner):
        add_token_lora(learner.network, 2, seed=1)
    else:
        learner.network.requires_grad_(requires_grad=False)
        learner.network.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"]))
    with torch.no_grad():
        for name, weight in learner.network.named_parameters():
            if ".lora_B." in name:
                weight.normal_(std=0.05)
    copied = gradients(run)
    run.reference = None
    own = gradients(run)
    assert copied
    assert copied.keys() == own.keys()
    assert all(".lora_" in name for name in own)
    assert all(torch.equal(own[name], value) for name, value in copied.items())


@pytest.mark.usefixtures("one_thread")
def test_memory_of_a_token_generator_is_what_autograd_saves(token_model: Path) -> None:
    learner = tokens(token_model)
    shape, storages = learner.architecture, dict[int, int]()
    text = torch.ones(3, shape.text_length + 1, dtype=torch.int64)
    samples = torch.zeros(3, 1, shape.image_tokens, dtype=torch.int64)

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    noising = learner.draw((shape.image_tokens,), 3, torch.Generator().manual_seed(1))
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        found = learner.predict(learner.network, samples, {"text": text}, noising)
    own = {weight.untyped_storage().data_ptr() for weight in learner.network.parameters()}
    saved = sum(size for place, size in storages.items() if place not in own) + found.slope.nbytes
    plan = PolicyTraining(
        {}, 3, shape.side, shape.side, shape.text_length + 1, "adamw", "fp32", 0.0, 3, tokens=shape, reference=7
    )
    weights = 4 * sum(weight.numel() for weight in learner.network.parameters())
    assert plan.memory.weights == weights + 7
    assert plan.memory.gradients == weights
    assert plan.memory.activations == pytest.approx(saved, rel=0.1)
    assert replace(plan, checkpointing=True).memory.activations < plan.memory.activations
    assert replace(plan, each=2).memory.activations == pytest.approx(2 * plan.memory.activations, rel=0.02)
    assert replace(plan, image=100).memory.activations == plan.memory.activations + 300


class Stopped(Exception):
    """What ends a training in the middle."""


def stopped_at(last: int) -> Callbacks:
    def stop(step: int, _weights: object) -> None:
        if step == last:
            raise Stopped

    return Callbacks(stepped=stop)


@pytest.mark.usefixtures("one_thread")
def test_killed_and_continued_is_the_same_training(learner: Learner, tmp_path: Path) -> None:
    plan = Settings(Schedule(1e-3, 6, warmup=1), average=0.9, save_every=1)

    def trained(folder: str, callbacks: Callbacks) -> dict[str, torch.Tensor]:
        run = task(copy.deepcopy(learner), "dpo")
        return train(run, plan, ConfinedPath(tmp_path / folder), NULL_REPORTER, callbacks)["transformer"]

    whole = trained("whole", Callbacks())
    with pytest.raises(Stopped):
        trained("stopped", stopped_at(4))
    continued = trained("stopped", Callbacks())
    assert all(torch.equal(continued[name], value) for name, value in whole.items())


def test_prompts_of_equal_scores_leave_nothing_to_compare(learner: Learner) -> None:
    alike = Samples({}, tuple(group(learner, PROMPTS[0], (0.2, 0.2), seed) for seed in range(2)))
    for loss in LOSSES:
        with pytest.raises(InvalidInput, match=f"nothing to learn with --loss {loss}"):
            ReinforceTask(learner, nn.Identity(), alike, Objective(loss, 1.0))


def test_easy_prompts_dont_prevail() -> None:
    one = Group("a", (0, 1, 2, 3), (0.6, 0.9, 0.7, 0.1), torch.zeros(4, 1), {})
    assert one.accepted(0.5, 2) == (1, 2)
    assert one.accepted(0.95, 2) == ()
    assert one.pair == (1, 3)


def test_groups_are_kept_in_files(learner: Learner, tmp_path: Path) -> None:
    home = ConfinedPath(tmp_path)
    (tmp_path / "groups").mkdir()
    (first, *_) = groups(learner)
    save_group(first, home, 3)
    found = load_group(home, 3)
    assert (found.prompt, found.seeds, found.scores) == (first.prompt, first.seeds, first.scores)
    assert torch.equal(found.samples, first.samples)
    assert all(torch.equal(found.condition[name], value) for name, value in first.condition.items())
    file = group_file(home, 3).path
    for damage in (b"", file.read_bytes()[:-9], b"\xff" * 200):
        file.write_bytes(damage)
        with pytest.raises(InvalidInput, match="holds no judged samples"):
            load_group(home, 3)


def test_damaged_groups_are_refused(learner: Learner, tmp_path: Path) -> None:
    home = ConfinedPath(tmp_path)
    (tmp_path / "groups").mkdir()
    (first, *_) = groups(learner)
    for number, wrong in enumerate(
        (
            Group(first.prompt, first.seeds[:-1], first.scores, first.samples, first.condition),
            Group(first.prompt, first.seeds, (*first.scores[:-1], float("nan")), first.samples, first.condition),
        )
    ):
        save_group(wrong, home, number)
        with pytest.raises(InvalidInput, match=r"is damaged|is not valid JSON"):
            load_group(home, number)
    assert LARGEST == 5


def test_a_network_that_knows_the_velocity_has_no_error_and_points_at_the_samples(pipeline: Path) -> None:
    """x_s = (1 - s) x + s e has the velocity e - x, and x_s - s v is x."""
    learner = flow(pipeline)
    samples, condition, noising = drawn(learner)
    states: list[torch.Tensor] = []

    class Knows(nn.Module):
        def forward(self, noised: torch.Tensor, *_: object, **__: object) -> tuple[torch.Tensor]:
            states.append(noised)
            return ((noising.noise[:, None] - samples).flatten(0, 1),)

    found = learner.predict(Knows(), samples, condition, noising)
    assert found.error.abs().max() < 1e-9
    level = noising.level.view(-1, 1, 1, 1, 1)
    expected = (1 - level) * samples + level * noising.noise[:, None]
    torch.testing.assert_close(states[0].view(samples.shape), expected)
    decoded = learner.vae.decode(samples.flatten(0, 1) / learner.vae.config.scaling_factor, return_dict=False)[0]
    torch.testing.assert_close(learner.images(found, samples, noising), decoded, atol=1e-4, rtol=1e-4)


def test_the_reward_is_the_judges_own_probability(learner: Learner) -> None:
    """-log P(yes), as the verifier says it of the same images at the same noise level."""
    samples, condition, noising = drawn(learner)
    network = judge()
    verifier = PreviewJudgeVerifier("judge", network, torch.device("cpu"))
    found = learner.predict(learner.network, samples, condition, noising)
    lost = float(RewardGuidance(network, 2.0).loss(learner, found, samples, PROMPTS, noising).detach())
    images = learner.images(found, samples, noising).detach().clamp(-1, 1)
    bytes_ = ((images + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    said = []
    for place, image in enumerate(bytes_):
        prompt, level = PROMPTS[place // 4], float(noising.level[place // 4])
        (reading,) = verifier.previews([image], [Request(prompt)], level)
        said.append(-math.log(reading.potential))
    assert lost == pytest.approx(2 * sum(said) / len(said), rel=0.02)


def test_sure_logits_point_at_the_image_of_their_codes(token_model: Path) -> None:
    learner = tokens(token_model)
    samples, _, noising = drawn(learner)
    other = (samples.long() + 7) % learner.architecture.codes
    sure = 50.0 * nn.functional.one_hot(other, learner.architecture.codes)
    images = learner.images(Prediction(torch.zeros(3, 4), sure, sure), samples, noising)
    masked = noising.noise[:, None].expand(samples.shape)
    expected = torch.where(masked, other, samples.long()).flatten(0, 1)
    torch.testing.assert_close(images, learner.tokenizer.decode(expected, 4), atol=1e-4, rtol=1e-4)

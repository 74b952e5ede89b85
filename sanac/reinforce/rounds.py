"""Rounds of sampling and training: each samples with the weights of the one before, which are also its reference."""

import copy
import gc
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from sanac.core import json_files
from sanac.core.artifact.model import Model
from sanac.core.artifact.token_model import AnyModel
from sanac.core.confined import ConfinedPath
from sanac.core.errors import InvalidInput, UsageError
from sanac.core.progress import Reporter
from sanac.core.units import duration_text
from sanac.finetune.lora import merged
from sanac.finetune.training_plan import RANK, fitting
from sanac.judge.judge_files import PREVIEW_JUDGE, judge_files, loaded
from sanac.judge.preview_judge import JudgeShape, PreviewJudge
from sanac.judge.verifier import Request
from sanac.judge.words import accepted_from, model_of
from sanac.nn.device import free_memory, pick_device
from sanac.nn.save_tensors import save_tensors
from sanac.reinforce.gather import begin, read_samples
from sanac.reinforce.groups import Samples
from sanac.reinforce.learner import Learner
from sanac.reinforce.open_learner import open_learner
from sanac.reinforce.policy_training import PolicyTraining, policy_training, seconds
from sanac.reinforce.reinforce_task import Objective, ReinforceTask
from sanac.reinforce.reward_guidance import RewardGuidance, frozen
from sanac.reinforce.samples_job import about, sample
from sanac.reinforce.settings import ReinforceSettings
from sanac.train.loop import Callbacks, Settings, train
from sanac.train.memory import out_of_memory
from sanac.train.schedule import Schedule

SCHEMA = 1  # raised when the same settings would train differently
WARMUP = 0.1  # share of the steps
_APART = 10**7  # seeds of a round's noises, from those of the round before
RATE = 0.01  # default learning rate times width
BETAS = {"flow": {"dpo": 30.0, "dgpo": 100.0}, "tokens": {"dpo": 20.0, "dgpo": 20.0}}


@dataclass(frozen=True)
class Rounds:
    """A reinforcement with all settings resolved."""

    model: AnyModel
    settings: ReinforceSettings
    requests: list[Request]
    workspace: ConfinedPath
    reporter: Reporter

    @property
    def kind(self) -> str:
        """Which defaults apply."""
        return "flow" if isinstance(self.model, Model) else "tokens"

    @property
    def device(self) -> str:
        """Where it computes."""
        return pick_device(self.settings.device)

    @cached_property
    def given(self) -> Samples | None:
        """The samples of --samples; UsageError if they are another model's."""
        if self.settings.samples is None:
            return None
        found = read_samples(ConfinedPath(self.settings.samples))
        if found.about.get("model") != self.model.identity():
            raise UsageError(
                f"{self.settings.samples} holds samples of another model than {self.model.located.name}",
                hint=f"sanac judge samples {self.model.located.name} --out OTHER",
            )
        return found

    @cached_property
    def first(self) -> PolicyTraining:
        """The training as the settings say, before anything is changed to make it fit."""
        each = len(self.given.groups[0].scores) if self.given else self.settings.each
        return policy_training(self.model, self.settings, self.requests, each, self.device)

    @cached_property
    def training(self) -> PolicyTraining:
        """The training, changed where it takes that to fit into the device's memory."""
        settings = self.settings
        named = set(settings.typed) | {name for name in ("micro_batch", "lora") if getattr(settings, name)}
        return fitting(self.first, free_memory(self.device), named, on_gpu=self.device.startswith("cuda"))

    @property
    def objective(self) -> Objective:
        """The loss with its constants."""
        settings = self.settings
        beta = settings.beta or BETAS[self.kind].get(settings.loss, 1.0)
        return Objective(
            settings.loss, beta, self._accepted, settings.accepted, settings.safeguard or None, settings.kl
        )

    @cached_property
    def _accepted(self) -> float:
        if self.settings.accept is not None or self.settings.loss != "rft":
            return self.settings.accept or 0.0
        if self.settings.verifier is None:
            raise UsageError("--loss rft needs --accept or --verifier", hint="--accept SCORE")
        verdict = accepted_from([self.settings.verifier])
        if verdict is None:
            raise UsageError(
                f"--loss rft needs --accept with {self.settings.verifier}",
                why="its scores compare images, and don't say from where on one is right",
                hint="--accept SCORE",
            )
        return verdict

    @property
    def how(self) -> dict[str, Any]:
        """Everything that the trained weights follow from, besides the model."""
        settings = self.settings
        return {
            "schema": SCHEMA,
            "loop": self.loop.result_settings,
            "objective": repr(self.objective),
            "rounds": settings.rounds,
            "prompts_per_step": settings.prompts_per_step,
            "reward": settings.reward,
            "lora": self.training.lora,
            "samples": self.given.identity if self.given else None,
            "sampling": about(settings, self.model, self.requests, self.reporter) if self.sampled else None,
        }

    def describe(self) -> Iterator[str]:
        """What was decided, and what it costs, in lines."""
        settings, plan = self.settings, self.training
        yield f"training takes about {plan.memory}"
        if changes := plan.changes(self.first):
            yield f"to fit: {'; '.join(changes)}"
        if isinstance(self.model, Model):
            images = (settings.rounds - bool(self.given)) * len(self.requests) * settings.each
            sampling, training = seconds(self.model, settings, plan, images, self.device, self.reporter)
            sampled = f"{duration_text(sampling)} to sample {images:,} images, " if images else ""
            yield f"about {sampled}{duration_text(training)} to train, without decoding and judging"

    @property
    def sampled(self) -> bool:
        """Whether samples are drawn here at all."""
        return self.given is None or self.settings.rounds > 1

    @property
    def loop(self) -> Settings:
        """Settings of the training loop."""
        settings = self.settings
        rate = settings.learning_rate or RATE / self.model.architecture.width
        return Settings(
            Schedule(rate, settings.updates, warmup=round(WARMUP * settings.updates)),
            average=self.training.average,
            optimizer=settings.optimizer,
            precision=self.training.precision,
            seed=settings.seed,
            average_on_host=self.training.average_on_host,
            save_every=settings.save_every,
            log_every=max(1, min(25, settings.updates // 10)),
        )

    def trained(self, folder: ConfinedPath, callbacks: Callbacks) -> dict[str, Tensor]:
        """The weights after the last round; each finished round is kept in a file."""
        weights: dict[str, Tensor] = {}
        for number in range(1, self.settings.rounds + 1):
            home = folder / f"round-{number}"
            file = home / "trained.safetensors"
            if not file.is_file():
                home.mkdir(parents=True, exist_ok=True)
                self.reporter.note(f"round {number} of {self.settings.rounds}")
                save_tensors(self._round(number, home, weights, callbacks), file)
            weights = load_file(file)
        return weights

    def _round(
        self, number: int, home: ConfinedPath, weights: Mapping[str, Tensor], callbacks: Callbacks
    ) -> dict[str, Tensor]:
        samples = self.given if number == 1 and self.given else self._sampled(number, home / "samples", weights)
        gc.collect()  # what sampled
        smaller = f"--micro-batch {max(1, self.training.micro_batch // 2)}"
        with out_of_memory(f"{smaller}, --checkpointing, or --lora {RANK}"):
            return self._taught(number, home / "training", samples, weights, callbacks)

    def _taught(
        self, number: int, home: ConfinedPath, samples: Samples, weights: Mapping[str, Tensor], callbacks: Callbacks
    ) -> dict[str, Tensor]:
        """All weights after one round's training."""
        device, training = torch.device(self.device), self.training
        learner = open_learner(self.model, device, weights, training, self.settings.seed)
        task = ReinforceTask(
            learner,
            copy.deepcopy(learner.network) if training.reference else None,
            samples,
            self.objective,
            self.settings.prompts_per_step,
            self._reward(device),
            training.micro_batch,
        )
        left_out = len(samples.groups) - len(task.groups)
        self.reporter.note(f"{len(task.groups)} prompts to learn from; {left_out} teach nothing")
        plan = replace(self.loop, seed=self.settings.seed + number - 1)
        found = train(task, plan, home, self.reporter, callbacks)["transformer"]
        return _whole(learner, found, lora=bool(training.lora))

    def _sampled(self, number: int, folder: ConfinedPath, weights: Mapping[str, Tensor]) -> Samples:
        """Samples of the model with these weights, from noises that no other round has."""
        identity = "" if not weights else json_files.key_of([[name, digest(value)] for name, value in weights.items()])
        settings = replace(self.settings, seed=self.settings.seed + (number - 1) * _APART)
        begin(folder, about(settings, self.model, self.requests, self.reporter, identity))
        numbers = range(len(self.requests))
        sample(self.model, settings, self.requests, numbers, folder, self.reporter, weights)
        return read_samples(folder)

    def _reward(self, device: torch.device) -> RewardGuidance | None:
        """The judge whose gradient guides the training."""
        if not self.settings.reward:
            return None
        assert self.settings.verifier
        files = judge_files(model_of(self.settings.verifier), PREVIEW_JUDGE)
        network = PreviewJudge(JudgeShape.from_json(files.config))
        loaded(network, files)
        return RewardGuidance(frozen(network, device), self.settings.reward)


def _whole(learner: Learner, weights: Mapping[str, Tensor], *, lora: bool) -> dict[str, Tensor]:
    """All weights of the network after training; InvalidInput if they are not finite."""
    network: nn.Module = learner.network
    network.load_state_dict(dict(weights), strict=False)
    found = merged(network) if lora else dict(network.state_dict())
    for name, value in found.items():
        if not torch.isfinite(value).all():
            raise InvalidInput(f"training made {name} NaN or infinite", hint="use a lower --learning-rate")
    return {name: value.detach().cpu() for name, value in found.items()}


def digest(value: Tensor) -> str:
    """A digest of a tensor's values."""
    return hashlib.sha256(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()[:16]

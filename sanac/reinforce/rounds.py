"""Rounds of sampling and training: each samples with the weights of the one before, which are also its reference."""

import copy
import hashlib
from collections.abc import Mapping
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
from sanac.core.errors import InvalidInput, MissingResource, UsageError
from sanac.core.progress import Reporter
from sanac.finetune.lora import merged
from sanac.judge.judge_files import PREVIEW_JUDGE, judge_files, loaded
from sanac.judge.preview_judge import JudgeShape, PreviewJudge
from sanac.judge.verifier import Request
from sanac.judge.words import accepted_from, model_of
from sanac.nn.device import pick_device
from sanac.nn.save_tensors import save_tensors
from sanac.reinforce.gather import begin, read_samples
from sanac.reinforce.groups import Samples
from sanac.reinforce.learner import Learner
from sanac.reinforce.open_learner import open_learner
from sanac.reinforce.reinforce_task import Objective, ReinforceTask
from sanac.reinforce.reward_guidance import RewardGuidance, frozen
from sanac.reinforce.samples_job import about, sample
from sanac.reinforce.settings import ReinforceSettings
from sanac.train.loop import Callbacks, Settings, train
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
            "lora": settings.lora,
            "samples": self.given.identity if self.given else None,
            "sampling": about(settings, self.model, self.requests, self.reporter) if self.sampled else None,
        }

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
            average=settings.ema,
            optimizer=settings.optimizer,
            seed=settings.seed,
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
        device = torch.device(self.device)
        learner = open_learner(self.model, device, weights, self.settings.lora, self.settings.seed)
        reference = copy.deepcopy(learner.network)  # before the first step an adapter changes nothing
        task = ReinforceTask(
            learner, reference, samples, self.objective, self.settings.prompts_per_step, self._reward(device)
        )
        left_out = len(samples.groups) - len(task.groups)
        self.reporter.note(f"{len(task.groups)} prompts to learn from; {left_out} teach nothing")
        plan = replace(self.loop, seed=self.settings.seed + number - 1)
        try:
            found = train(task, plan, home / "training", self.reporter, callbacks)["transformer"]
        except torch.cuda.OutOfMemoryError as error:
            raise MissingResource(
                "the GPU ran out of memory during training",
                why=str(error).splitlines()[0][:200],
                hint=f"--prompts-per-step {max(1, self.settings.prompts_per_step // 2)}, or --lora 16",
            ) from error
        return _whole(learner, found, lora=bool(self.settings.lora))

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

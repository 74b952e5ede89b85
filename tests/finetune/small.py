"""A run small enough for tests: a real SANA transformer of two blocks on random latents."""

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from sanac.core.progress import NULL_REPORTER, Reporter
from sanac.tiny import build
from sanac.train.loop import Settings, train
from sanac.train.schedule import Schedule
from sanac.train.task import FlowTask

WORDS = ("a circle", "two squares", "a red cross")


@dataclass
class Few:
    """Sixteen fixed latents with one of three captions each."""

    latents: Tensor = field(
        default_factory=lambda: torch.randn(16, build.LATENT_CHANNELS, 4, 4, generator=torch.Generator().manual_seed(1))
    )
    identity: str = "few"
    asked: list[list[str]] = field(default_factory=list)

    def batch(self, count: int, generator: torch.Generator) -> tuple[Tensor, list[str]]:
        picked = torch.randint(16, (count,), generator=generator)
        self.asked.append([WORDS[index % 3] for index in picked.tolist()])
        return self.latents[picked], self.asked[-1]


@dataclass
class Encoder:
    """Each caption is one fixed vector; what was encoded is remembered."""

    seen: list[list[str]] = field(default_factory=list)

    def __call__(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        self.seen.append(captions)
        vectors = [
            torch.randn(build.TEXT_WIDTH, generator=torch.Generator().manual_seed(len(caption))) for caption in captions
        ]
        return torch.stack(vectors)[:, None], torch.ones(len(captions), 1)


def task(**options) -> FlowTask:
    torch.manual_seed(0)
    transformer = build.transformer(2, width=32)
    return FlowTask(transformer, options.pop("encode", Encoder()), options.pop("data", Few()), batch_size=8, **options)


def settings(steps: int = 20, **options) -> Settings:
    return Settings(Schedule(1e-3, steps, warmup=4), save_every=options.pop("save_every", 5), log_every=2, **options)


def digest(folder: Path, *, steps: int = 20, reporter: Reporter = NULL_REPORTER) -> str:
    weights = train(task(), settings(steps), folder, reporter)["transformer"]
    return " ".join(f"{tensor.double().sum().item():.17g}" for tensor in weights.values())


if __name__ == "__main__":  # a process that a test kills
    torch.set_num_threads(1)

    class Reporting(FlowTask):
        def loss(self, generator: torch.Generator, number: int = 0, /) -> Tensor:
            print("step", flush=True)
            return super().loss(generator, number)

    made = task()
    reporting = Reporting(made.transformer, made.encode, made.data, batch_size=8)
    train(reporting, settings(int(sys.argv[2])), Path(sys.argv[1]), NULL_REPORTER)
    os._exit(0)

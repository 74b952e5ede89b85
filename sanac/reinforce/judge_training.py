"""The three ways to train a judge: on generated previews, on a user's labels, or a vision-language model on labels."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from sanac.core.confined import ConfinedPath
from sanac.core.json_files import key_of
from sanac.core.progress import Reporter
from sanac.core.safetensors_header import read_header
from sanac.judge.judge_files import PREVIEW_JUDGE, judge_files, loaded, save_judge
from sanac.judge.model_folder import YES_NO, JudgeFolder, open_judge
from sanac.judge.preview_judge import JudgeShape, PreviewJudge
from sanac.judge.yes_no import YesNoModel
from sanac.nn.streaming import DTYPES
from sanac.reinforce.agreement import Answer, answers_of
from sanac.reinforce.judge_settings import JudgeTrainSettings
from sanac.reinforce.judge_task import Examples, PreviewJudgeTask, RunExamples, from_bytes
from sanac.reinforce.label_examples import LabelExamples
from sanac.reinforce.labels import Labels, words_of
from sanac.reinforce.previews import PreviewSource, previews_of
from sanac.reinforce.yes_no_training import YesNoTask, add_adapters, merge_adapters, save_yes_no, yes_no_answers
from sanac.shapes.prompts import Prompt
from sanac.train.loop import Callbacks, Settings, train
from sanac.train.schedule import Schedule

SCHEMA = 1  # raised when the same settings would train another judge
_WARMUP, _DECAY = 200, 0.05
_CALMER = Callbacks(calmer="use a lower --learning-rate")


@dataclass(frozen=True)
class JudgeTraining(ABC):
    """A judge to train, with everything decided."""

    settings: JudgeTrainSettings
    device: str
    back: frozenset[str]  # prompts that are kept from training

    kind = "judge"  # what it is called in `--verifier KIND:OUT`

    @property
    @abstractmethod
    def about(self) -> Any:
        """Everything that the judge depends on besides the settings, for the content key."""

    @property
    @abstractmethod
    def prompts(self) -> Sequence[str]:
        """All different prompts."""

    @abstractmethod
    def train(self, work: ConfinedPath, result: ConfinedPath, reporter: Reporter) -> list[Answer]:
        """Train with the state in `work`, write the judge to `result`; returns its answers about what was kept back."""

    @cached_property
    def key(self) -> str:
        """The content key of the judge."""
        one = self.settings
        how = [one.training_steps, one.peak_rate, one.batch_size, one.rank if one.base else 0, one.seed]
        return key_of(["judge train", SCHEMA, self.kind, how, sorted(self.back), self.about])

    def loop_settings(self, decay: float) -> Settings:
        """Settings of the training loop."""
        one, steps = self.settings, self.settings.training_steps
        return Settings(
            Schedule(one.peak_rate, steps, warmup=min(_WARMUP, steps // 10)),
            weight_decay=decay,
            seed=one.seed,
            save_every=one.save_every,
            log_every=max(1, min(25, steps // 20)),
        )

    def training_folder(self, work: ConfinedPath) -> ConfinedPath:
        """The folder of the checkpoints."""
        return work / f"training-{self.key[:8]}"

    def train_previews(
        self, examples: Examples, words: Sequence[str], work: ConfinedPath, result: ConfinedPath, reporter: Reporter
    ) -> list[Answer]:
        """Train a preview judge that knows these words on any examples."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.seed)
            network: PreviewJudge = PreviewJudge(JudgeShape(tuple(words)))
        network.to(self.device)
        task = PreviewJudgeTask(network, examples, self.settings.batch_size)
        weights = train(task, self.loop_settings(_DECAY), self.training_folder(work), reporter, _CALMER)["judge"]
        network.load_state_dict(weights)
        save_judge(network, network.shape.to_json(), result)
        loaded(network, judge_files(str(result), PREVIEW_JUDGE))  # its answers are those of the file
        return answers_of(network, examples)


@dataclass(frozen=True)
class GeneratedTraining(JudgeTraining):
    """A preview judge on what models generate, with the verdicts of the shapes world's detector."""

    sources: tuple[PreviewSource, ...]
    known: tuple[Prompt, ...]  # that the sources' numbers name
    words: tuple[str, ...]

    @property
    def about(self) -> Any:
        """The models, and what they generate."""
        return [one.about for one in self.sources]

    @property
    def prompts(self) -> Sequence[str]:
        """All different prompts."""
        return tuple(dict.fromkeys(text for one in self.sources for text in one.prompts))

    def train(self, work: ConfinedPath, result: ConfinedPath, reporter: Reporter) -> list[Answer]:
        """Generate with each model, then train."""
        runs = []
        for source in self.sources:
            reporter.note(f"{len(source.prompts)} images with {source.model.located.name}")
            runs += previews_of(source, self.settings.device, work, reporter)
        examples = RunExamples(from_bytes, runs, self.known, self.device, self.back)
        right = examples.right
        reporter.note(f"the detector finds {right:.0%} of the images right")
        if not 0.02 <= right <= 0.98:
            reporter.warn("a judge learns from right images and from wrong ones: add a MODEL that is better, or worse")
        return self.train_previews(examples, self.words, work, result, reporter)


@dataclass(frozen=True)
class LabelledTraining(JudgeTraining):
    """A preview judge on a user's labels."""

    labels: Labels

    @property
    def about(self) -> Any:
        """The labels and their images."""
        return self.labels.identity

    @property
    def prompts(self) -> Sequence[str]:
        """All different prompts."""
        return self.labels.prompts

    def train(self, work: ConfinedPath, result: ConfinedPath, reporter: Reporter) -> list[Answer]:
        """Train on the labels."""
        lines, back = self.labels.split(self.back)
        if not self.labels.has_previews:
            reporter.note("no line is a preview: the judge learns finished images only")
        words = words_of([one.prompt for one in lines])
        examples = LabelExamples(lines, back, JudgeShape(words).side, self.device)
        return self.train_previews(examples, words, work, result, reporter)


@dataclass(frozen=True)
class YesNoTraining(JudgeTraining):
    """A vision-language model on a user's labels."""

    labels: Labels
    base: JudgeFolder

    kind = "vlm"

    @property
    def about(self) -> Any:
        """The labels with their images, and the model that is adapted."""
        return [self.labels.identity, self.base.identity]

    @property
    def prompts(self) -> Sequence[str]:
        """All different prompts."""
        return self.labels.prompts

    def train(self, work: ConfinedPath, result: ConfinedPath, reporter: Reporter) -> list[Answer]:
        """Train adapters of the model, merge them, and ask the model that was written."""
        lines, back = self.labels.split(self.back)
        judge = YesNoModel.open(self.base, self.device)
        add_adapters(judge, self.settings.rank, self.settings.seed)
        task = YesNoTask(judge, lines, self.settings.batch_size)
        weights = train(task, self.loop_settings(0.0), self.training_folder(work), reporter, _CALMER)["judge"]
        merge_adapters(judge, weights)
        save_yes_no(judge, _stored_dtype(self.base), result)
        del judge, task
        written = YesNoModel.open(open_judge(str(result), YES_NO), self.device)
        return list(yes_no_answers(written, back))


def _stored_dtype(folder: JudgeFolder) -> torch.dtype:
    """The dtype that most of a model's tensors are stored in."""
    files = [read_header(file).tensors.values() for file in sorted(folder.path.glob("*.safetensors"))]
    (dtype, _), *_ = Counter(ref.dtype for refs in files for ref in refs).most_common(1)
    return DTYPES.get(dtype, torch.float32)

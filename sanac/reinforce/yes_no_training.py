"""Adapts the yes/no answers of a vision-language model to labels, with low-rank adapters that are merged at the end.

The loss is the cross-entropy of yes against no, each over all its spellings: what the judge is asked when it is used.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from sanac.core.confined import ConfinedPath
from sanac.core.errors import InvalidInput, MissingResource
from sanac.core.json_files import key_of
from sanac.finetune.lora import check_peft
from sanac.judge.questions import CLARITY, FINAL, POTENTIAL, final_question
from sanac.judge.verifier import Request
from sanac.judge.yes_no import YesNoModel
from sanac.nn.silence_libraries import quiet
from sanac.reinforce.agreement import Answer
from sanac.reinforce.labels import LabelledImage

QUESTIONS = {"clarity": CLARITY, "potential": POTENTIAL, "final": FINAL}


@dataclass
class YesNoTask:
    """Cross-entropy of yes against no on random questions about labelled images, an image at a time."""

    judge: YesNoModel
    lines: Sequence[LabelledImage]
    batch_size: int
    compiled: bool = False
    shown: str = ""

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """The model; only its adapters are trained."""
        return {"judge": self.judge.model}

    @cached_property
    def identity(self) -> str:
        """Settings of the task for the training's content key."""
        labels = key_of([one.about for one in self.lines])[:16]
        return f"yes/no {self.judge.id} {labels} {self.batch_size} {key_of(QUESTIONS)[:8]}"

    @cached_property
    def _asked(self) -> list[tuple[LabelledImage, str]]:
        """Every question: a labelled image and a head."""
        return [(one, head) for one in self.lines for head in one.answers]

    def losses(self, generator: torch.Generator, _number: int = 0, /) -> Iterator[Tensor]:
        """The loss of one batch, a question at a time."""
        for number in torch.randint(len(self._asked), (self.batch_size,), generator=generator).tolist():
            one, head = self._asked[number]
            self.shown = f"the image {one.image}"
            margin = _margin(self.judge, one, head)
            label = torch.tensor(one.answers[head], device=margin.device)
            yield nn.functional.binary_cross_entropy_with_logits(margin, label) / self.batch_size


def add_adapters(judge: YesNoModel, rank: int, seed: int) -> None:
    """Freeze the model and add a LoRA of rank `rank` to every linear layer but the one that gives the logits."""
    check_peft("--base")
    from peft import LoraConfig, get_peft_model

    head = judge.model.get_output_embeddings()
    targets = [
        name for name, module in judge.model.named_modules() if isinstance(module, nn.Linear) and module is not head
    ]
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)
        judge.model = get_peft_model(judge.model, LoraConfig(r=rank, lora_alpha=rank, target_modules=targets))


def merge_adapters(judge: YesNoModel, weights: Mapping[str, Tensor]) -> None:
    """Load the trained adapters and merge them into the model; InvalidInput if that makes a weight NaN."""
    judge.model.load_state_dict(weights, strict=False)
    judge.model = judge.model.merge_and_unload().eval()
    if bad := [name for name, tensor in judge.model.state_dict().items() if not torch.isfinite(tensor).all()]:
        raise InvalidInput("training made the judge NaN", why=f"in {bad[0]}", hint="use a lower --learning-rate")


def save_yes_no(judge: YesNoModel, dtype: torch.dtype, folder: ConfinedPath) -> None:
    """Write the model and its processor, as transformers saves them."""
    try:
        with quiet():
            judge.model.to(dtype).save_pretrained(folder)
            judge.processor.save_pretrained(folder)
    except (OSError, SafetensorError) as error:
        raise MissingResource(f"cannot write {folder}", why=str(error)) from error


def yes_no_answers(judge: YesNoModel, lines: Sequence[LabelledImage]) -> Iterator[Answer]:
    """The model's answers to all questions about labelled images that were kept from training."""
    for one in lines:
        for head, label in one.answers.items():
            with torch.no_grad():
                said = float(torch.sigmoid(_margin(judge, one, head)))
            yield Answer(head, one.prompt, said, label, one.noise)


def _margin(judge: YesNoModel, one: LabelledImage, head: str) -> Tensor:
    """The logit of yes to the question of a head about an image."""
    return judge.margin(one.read(), final_question(Request(one.prompt), QUESTIONS[head]))

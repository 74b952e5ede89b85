"""Yes/no judges over vision-language models: one forward pass, the probability of yes over all its spellings.

The verdict is never sampled. From the logits behind the question

    P(yes) = sum of p over {yes, Yes, " yes", " Yes"} / (that + the same for no).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sanac.core.errors import InvalidInput, UsageError
from sanac.judge.model_folder import YES_NO, JudgeFolder
from sanac.judge.questions import CLARITY, POTENTIAL, Atom, atoms_of, final_question, geometric_mean
from sanac.judge.verifier import Picture, Reading, Request
from sanac.nn.silence_libraries import quiet

YES, NO = ("yes", "Yes", " yes", " Yes"), ("no", "No", " no", " No")


@dataclass
class YesNoModel:
    """A vision-language model that answers yes/no questions about images."""

    id: str
    model: Any
    processor: Any
    device: torch.device

    @classmethod
    def open(cls, folder: JudgeFolder, device: str) -> "YesNoModel":
        """Load a checked folder."""
        with quiet():
            import transformers

            model_class, processor_class = (getattr(transformers, name) for name in YES_NO[folder.kind])
            dtype = torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16
            model = folder.load(model_class, dtype).to(device).eval()
            processor = folder.load_processor(processor_class)
        return cls(f"{folder.kind} {folder.identity}", model, processor, torch.device(device))

    @cached_property
    def _answers(self) -> tuple[list[int], list[int]]:
        """Token ids of the spellings of yes and of no that are a token each."""
        tokenizer = self.processor.tokenizer
        found = []
        for words in (YES, NO):
            encoded = [tokenizer.encode(word, add_special_tokens=False) for word in words]
            found.append(sorted({ids[0] for ids in encoded if len(ids) == 1 and ids[0] != tokenizer.unk_token_id}))
        if not all(found):
            raise InvalidInput(f"the judge {self.id} has no token for yes or for no", hint="choose another judge")
        return found[0], found[1]

    def probability(self, image: Picture, question: str) -> float:
        """P(yes), between 0 and 1."""
        with torch.no_grad():
            return float(torch.sigmoid(self.margin(image, question)))

    def margin(self, image: Picture, question: str) -> Tensor:
        """The logit of P(yes), with its gradient where the model is trained."""
        from PIL import Image

        turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
        text = self.processor.apply_chat_template([turn], add_generation_prompt=True)
        inputs = self.processor(images=[Image.fromarray(image)], text=[text], return_tensors="pt").to(self.device)
        logits = self.model(**inputs).logits[0, -1].float()
        if not torch.isfinite(logits).all():
            raise InvalidInput(f"the judge {self.id} answers NaN", hint="fetch it again")
        yes, no = (torch.logsumexp(logits[ids], dim=0) for ids in self._answers)
        return yes - no


@dataclass(frozen=True)
class YesNoVerifier:
    """The probability of yes to one question about the whole prompt."""

    judge: YesNoModel
    template: str

    @property
    def id(self) -> str:
        """The model and the question."""
        return f"{self.judge.id} {self.template}"

    def scores(self, images: Sequence[Picture], requests: Sequence[Request]) -> list[float]:
        """P(yes) of each image."""
        pairs = zip(images, requests, strict=True)
        return [self.judge.probability(image, final_question(request, self.template)) for image, request in pairs]

    def previews(self, images: Sequence[Picture], requests: Sequence[Request], noise: float) -> list[Reading]:  # noqa: ARG002
        """The answers to the questions about clarity, potential and the image as it is; the noise isn't passed."""
        asked = (CLARITY, POTENTIAL, self.template)
        return [
            Reading(*(self.judge.probability(image, final_question(request, template)) for template in asked))
            for image, request in zip(images, requests, strict=True)
        ]


@dataclass(frozen=True)
class AtomsVerifier:
    """The geometric mean of the probabilities of everything that a prompt asks for."""

    ask: Callable[[Picture, str], float]
    judge_id: str

    @property
    def id(self) -> str:
        """The model, asked about atoms."""
        return f"{self.judge_id} atoms"

    def scores(self, images: Sequence[Picture], requests: Sequence[Request]) -> list[float]:
        """The mean of each image; UsageError for a prompt whose atoms aren't known."""
        found = []
        for image, request in zip(images, requests, strict=True):
            found.append(geometric_mean([probability for _, probability in self.answers(image, request)]))
        return found

    def reasons(self, image: Picture, request: Request) -> list[str]:
        """The things whose question is answered with no."""
        return [atom.wanted for atom, probability in self.answers(image, request) if probability < 0.5]

    def answers(self, image: Picture, request: Request) -> list[tuple[Atom, float]]:
        """Every atom of a request with its probability; the lowest ones are the reasons for a low score."""
        if request.task is None:
            raise UsageError(
                f"what {request.prompt!r} asks for is not known",
                why="atoms are read from GenEval's metadata or from prompts of the shapes world",
                hint="--verifier vlm:MODEL asks about the prompt as a whole",
            )
        return [(atom, self.ask(image, atom.question)) for atom in atoms_of(request.task)]

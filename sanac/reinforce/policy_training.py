"""The memory of a reinforcement: the network, its frozen copy, all samples of a prompt at once, and decoded images.

A LoRA needs no copy: the network without its adapters is the reference.
"""

from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from sanac.core.artifact.model import Model
from sanac.core.artifact.token_model import IMAGES, AnyModel, TokenModel
from sanac.core.family.magvit import MagvitArchitecture
from sanac.core.family.showo import ShowoArchitecture
from sanac.core.progress import Reporter
from sanac.finetune.data_source import longest_caption
from sanac.finetune.training_plan import TrainingPlan
from sanac.judge.verifier import Request
from sanac.nn.device_speed import update_seconds
from sanac.nn.guidance import branches_of
from sanac.nn.pipeline_config import forward_seconds, latent_side, vocabulary_of
from sanac.nn.precision import choose_precision, training_precision
from sanac.nn.stock_loading import component_config
from sanac.reinforce.settings import ReinforceSettings
from sanac.reinforce.token_learner import attention_kernel
from sanac.search.generators import any_sampling
from sanac.tokens.image_tokenizer import ImageTokenizer
from sanac.tokens.transformer import MaskedTokenTransformer
from sanac.train.memory import Counted, Load, Memory, counted, memory_of


@dataclass(frozen=True)
class PolicyTraining(TrainingPlan):
    """The options of a reinforcement that decide its memory."""

    tokens: ShowoArchitecture | None = None  # of a token generator
    image: int = 0  # bytes of a decoded image with its gradient

    def estimated(self, load: Load, *, average: bool) -> Memory:
        """The memory of either network, and of the images that a judge looks at."""
        if self.tokens:
            counting = partial(_counted_tokens, self.tokens)
            found = memory_of(self.tokens.layers, counting, load, self.optimizer, average=average)
        else:
            found = super().estimated(load, average=average)
        return replace(found, activations=found.activations + load.batch * self.image)


def policy_training(
    model: AnyModel, settings: ReinforceSettings, requests: list[Request], each: int, device: str
) -> PolicyTraining:
    """The training as the settings say; `each`: samples of a prompt."""
    seen = {"rft": 1, "dpo": 2}.get(settings.loss, each)
    compared = settings.loss != "rft" and not settings.lora
    prompts = settings.prompts_per_step
    if isinstance(model, Model):
        side = latent_side(model)
        caption = longest_caption([one.prompt for one in requests], vocabulary_of(model))
        config, parameters = dict(model.transformer.config or model.architecture.config()), model.weights.count
    else:
        side, caption, config = model.architecture.side, model.architecture.text_length + 1, {}
        assert model.transformer.weights
        parameters = model.transformer.weights.count
    return PolicyTraining(
        config,
        prompts,
        side,
        side,
        caption,
        settings.optimizer,
        training_precision(settings.precision, device),
        settings.ema,
        min(prompts, settings.micro_batch or prompts),
        checkpointing=settings.checkpointing,
        lora=settings.lora,
        each=seen,
        reference=4 * parameters if compared else 0,
        counts="prompts",
        tokens=model.architecture if isinstance(model, TokenModel) else None,
        more=_decoder_weights(model) if settings.reward else 0,
        image=_decoding(model) if settings.reward else 0,
    )


def seconds(
    model: Model, settings: ReinforceSettings, plan: PolicyTraining, images: int, device: str, reporter: Reporter
) -> tuple[float, float]:
    """Estimated seconds of the forward passes of sampling so many images, and of training in all rounds."""
    tokens = (plan.height // model.architecture.patch_size) ** 2
    steps = any_sampling(model, settings, reporter).steps
    sampling = forward_seconds(
        model,
        float(images * steps * branches_of(model) * tokens),
        device,
        choose_precision(None, device, model),
        readings=0,
    )
    updates = settings.rounds * settings.updates
    passes = plan.passes + (settings.loss != "rft")
    seen = float(passes * updates * plan.batch * plan.each * tokens)
    training = forward_seconds(model, seen, device, plan.precision, readings=0)
    return sampling, training + updates * update_seconds(plan.memory.gradients, device)


def _decoder_weights(model: AnyModel) -> int:
    """Bytes of the autoencoder or image tokenizer, in fp32."""
    part = next(part for part in model.components if part.name in {"vae", IMAGES})
    return 4 * part.weights.count if part.weights else 0


@lru_cache(maxsize=16)
def _counted_tokens(shape: ShowoArchitecture, depth: int, load: Load) -> Counted:
    """What autograd saves of a token generator of this depth, with the logits of all codes."""
    text, image = shape.text_length + 1, shape.image_tokens
    with FakeTensorMode(allow_non_fake_inputs=True):
        network = MaskedTokenTransformer(ShowoArchitecture(**asdict(shape) | {"layers": depth}))

        def loss() -> Tensor:
            sequence = torch.ones(load.batch, text + image + 2, dtype=torch.int64)
            with attention_kernel(sequence.device):
                states = network.showo.model(
                    input_ids=sequence, attention_mask=network.attention(sequence), use_cache=False
                ).last_hidden_state
            return network.logits(states).float().log_softmax(dim=-1).square().mean()

        stream = 4 * load.batch * (text + image + 2) * shape.width
        found = counted(network, network.showo.model.layers, loss, stream, load.precision)
    predicted = 4 * load.batch * image * shape.codes  # the slopes, beside what autograd saves
    return replace(found, saved=found.saved + predicted)


def _decoding(model: AnyModel) -> int:
    """Bytes of the activations of one image, decoded with a gradient."""
    if isinstance(model, TokenModel):
        return _decoding_tokens(model.image_architecture, model.architecture.side)
    from diffusers import AutoencoderDC

    config, side = component_config(model, "vae"), latent_side(model)
    with FakeTensorMode(allow_non_fake_inputs=True):
        decoder = AutoencoderDC.from_config(config).decoder
        return _saved(decoder, torch.empty(1, model.architecture.in_channels, side, side, requires_grad=True))


@lru_cache(maxsize=16)
def _decoding_tokens(shape: MagvitArchitecture, side: int) -> int:
    with FakeTensorMode(allow_non_fake_inputs=True):
        return _saved(ImageTokenizer(shape).decoder, torch.empty(1, shape.bits, side, side, requires_grad=True))


def _saved(decoder: nn.Module, latents: Tensor) -> int:
    decoder.requires_grad_(requires_grad=False)
    return counted(decoder, decoder, lambda: decoder(latents).mean(), 0, "fp32").saved

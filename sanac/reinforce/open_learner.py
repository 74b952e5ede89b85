"""Opens the training side of a model, SANA or a token generator."""

from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor

from sanac.core.artifact.completeness import check_complete
from sanac.core.artifact.model import Model
from sanac.core.artifact.token_model import AnyModel
from sanac.core.errors import UsageError
from sanac.finetune.lora import add_lora, check_peft
from sanac.finetune.student import open_student
from sanac.nn.guidance import config_of, guidance_of
from sanac.nn.pipeline_config import scheduler_of
from sanac.nn.precision import dtype_of
from sanac.nn.stock_loading import load_component
from sanac.reinforce.flow_learner import FlowLearner
from sanac.reinforce.learner import Learner
from sanac.reinforce.policy_training import PolicyTraining
from sanac.reinforce.token_learner import TokenLearner, attention_kernel
from sanac.tokens.networks import open_networks
from sanac.tokens.transformer import MaskedTokenTransformer
from sanac.train.flow_matching import Times


def open_learner(
    model: AnyModel, device: torch.device, weights: Mapping[str, Tensor], training: PolicyTraining, seed: int = 0
) -> Learner:
    """A trainable network with the model's weights, or those that replace them, and its decoder.

    UsageError for models that can't learn so.
    """
    dtype = dtype_of("bf16" if training.half_weights else "fp32")
    if isinstance(model, Model):
        return _flow(model, device, weights, training, dtype, seed)
    networks = open_networks(model, str(device), dtype)
    network = networks.transformer.train().requires_grad_(requires_grad=True)
    network.load_state_dict(dict(weights), strict=False)
    if training.lora:
        add_token_lora(network, training.lora, seed)
    if training.checkpointing:
        kernel = partial(attention_kernel, device)  # as in the forward pass, or other tensors would be recomputed
        how = {"use_reentrant": False, "context_fn": lambda: (nullcontext(), kernel())}
        phi = network.showo
        enable = getattr(phi, "activation_checkpointing_enable", phi.gradient_checkpointing_enable)  # its older name
        enable(how)
    return TokenLearner(network, networks.images, networks.transformer.architecture)


def _flow(
    model: Model,
    device: torch.device,
    weights: Mapping[str, Tensor],
    training: PolicyTraining,
    dtype: torch.dtype,
    seed: int,
) -> FlowLearner:
    if model.architecture.guidance:
        raise UsageError(
            f"{model.located.name} can't be reinforced",
            why="SANA-Sprint is distilled to few steps: it predicts where a step ends, not the velocity of the flow",
        )
    if model.schedule and model.schedule.guidance_inside is not None:
        raise UsageError(
            f"{model.located.name} can't be reinforced",
            why="guidance was distilled into its weights: they give a guided velocity, which no sample has",
            hint="reinforce it first, then distill guidance",
        )
    check_complete(model)
    student = open_student(model, device, dtype)
    student.load_state_dict(dict(weights), strict=False)
    if training.lora:
        add_lora(student, model.architecture, training.lora, seed)
    if training.checkpointing:
        student.enable_gradient_checkpointing()
    vae = load_component(model, "vae", torch.float32).to(device) if training.image else None
    if vae:
        vae.requires_grad_(requires_grad=False)
    scheduler = scheduler_of(model)
    shift = float(scheduler.get("flow_shift", scheduler.get("shift", 3.0)))
    return FlowLearner(student, vae, guidance_of(config_of(model)).timesteps, Times(shift=shift))


def add_token_lora(network: MaskedTokenTransformer, rank: int, seed: int) -> None:
    """Freeze a token model and add a LoRA of rank `rank` to every linear layer of its transformer layers."""
    check_peft("--lora")
    from peft import LoraConfig

    targets = ["q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network.requires_grad_(requires_grad=False)
        network.showo.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=targets))

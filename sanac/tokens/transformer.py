"""Show-o's transformer: Phi over text and image tokens in one sequence, causal over text and full over the image.

    [pad ... pad  t2i  bos  words  eos | soi  image tokens  eoi]

Text is padded on the left, so that the image is always at the same positions. Nothing attends to padding; columns that
are padding in every row of a batch are left out, and change nothing.
"""

import torch
from torch import Tensor, nn

from sanac.core.family.showo import ShowoArchitecture
from sanac.nn.silence_libraries import quiet


class MaskedTokenTransformer(nn.Module):  # type: ignore[misc]
    """Predicts the codes of an image from a prompt and the codes that are known; names as in Show-o's checkpoints."""

    def __init__(self, architecture: ShowoArchitecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.showo = _phi(architecture)

    def forward(self, text: Tensor, image: Tensor) -> Tensor:
        """Logits (rows, image tokens, codes) of text (rows, text tokens) and image (rows, image tokens), as tokens."""
        return self.logits(self.states(text, image)[-1])

    def states(self, text: Tensor, image: Tensor, layers: bool = False) -> tuple[Tensor, ...]:  # noqa: FBT001, FBT002
        """The last hidden states (rows, tokens, width); with `layers` those behind the embedding and every layer."""
        sequence, positions = self.sequence(text, image)
        found = self.showo.model(
            input_ids=sequence,
            attention_mask=self.attention(sequence),
            position_ids=positions,
            output_hidden_states=layers,
            use_cache=False,
        )
        return tuple(found.hidden_states) if layers else (found.last_hidden_state,)

    def logits(self, states: Tensor) -> Tensor:
        """Logits of the codes at the image's positions."""
        shape, head = self.architecture, self.showo.lm_head
        part = slice(shape.first_code, shape.mask)
        inner = states[:, -(shape.image_tokens + 1) : -1]
        return nn.functional.linear(inner, head.weight[part], head.bias[part])

    def sequence(self, text: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """(tokens, positions) of the whole sequence, without columns of padding only."""
        shape, rows = self.architecture, len(text)
        padding = (text == shape.marker("pad")).all(dim=0)
        first = int(padding.int().cumprod(0).sum())
        edges = [text.new_full((rows, 1), shape.marker(name)) for name in ("soi", "eoi")]
        sequence = torch.cat([text[:, first:], edges[0], image, edges[1]], dim=1)
        positions = torch.arange(first, first + sequence.shape[1], device=text.device)
        return sequence, positions[None].expand(rows, -1)

    def attention(self, sequence: Tensor) -> Tensor:
        """Which tokens see which (rows, 1, tokens, tokens): text what is before it, the image everything but padding.

        Padding sees itself: a row that sees nothing has no softmax.
        """
        shape, length = self.architecture, sequence.shape[1]
        places = torch.arange(length, device=sequence.device)
        before = places[:, None] >= places
        drawn = (places >= length - shape.image_tokens - 2)[:, None]
        real = (sequence != shape.marker("pad"))[:, None, None]
        return ((before | drawn) & real) | torch.eye(length, dtype=torch.bool, device=sequence.device)


def _phi(shape: ShowoArchitecture) -> nn.Module:
    """Phi with these sizes, and Phi-1.5's constants."""
    with quiet():  # it takes a second, and warns
        from transformers import PhiConfig, PhiForCausalLM

    config = PhiConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        hidden_act="gelu_pytorch_tanh",  # the formula of gelu_new, as one operation
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.5},
        qk_layernorm=True,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attention_dropout=0.0,
        bos_token_id=None,
        eos_token_id=None,
    )
    network: nn.Module = PhiForCausalLM(config)
    return network

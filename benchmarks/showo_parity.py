"""sanac's Show-o against Show-o's public code, on small random weights.

python benchmarks/showo_parity.py theirs CHECKOUT ref.safetensors    (with torch, einops and transformers 4.41 only)
python benchmarks/showo_parity.py ours ref.safetensors

CHECKOUT is a clone of showlab/Show-o (Apache-2.0); nothing of it is part of sanac.
"""

import importlib
import json
import sys
import types
from pathlib import Path
from typing import Any

import click
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

WORDS, CODES, TOKENS, LENGTH = 40, 32, 16, 12
BITS, SIDE = 7, 32


def stand_in(name: str, **values: Any) -> None:
    """A module that Show-o's files import and that this comparison doesn't need."""
    module = types.ModuleType(name)
    vars(module).update(values)
    sys.modules[name] = module


def import_theirs(checkout: Path) -> tuple[Any, Any, Any]:
    """(the transformer's module, the attention mask's, the image tokenizer's), without what they need for training."""
    for name in ("models", "training"):
        stand_in(name, __path__=[str(checkout / name)])
    plain = type("ModelMixin", (torch.nn.Module,), {})
    empty = type("ConfigMixin", (), {})
    stand_in("models.modeling_utils", ModelMixin=plain, ConfigMixin=empty, register_to_config=lambda made: made)
    stand_in("models.misc", List=list)
    names = ("models.phi", "training.prompting_utils", "models.modeling_magvitv2")
    phi, prompting, magvit = map(importlib.import_module, names)
    return phi, prompting, magvit


@click.group()
def main() -> None:
    """Compare sanac's Show-o with the public one."""


@main.command()
@click.argument("checkout", type=click.Path(path_type=Path, exists=True))
@click.argument("file", type=click.Path(path_type=Path))
def theirs(checkout: Path, file: Path) -> None:
    """Write weights, inputs and outputs of Show-o's code."""
    from transformers import PhiConfig

    phi, prompting, magvit = import_theirs(checkout)
    torch.manual_seed(0)
    first, mask = WORDS + 10, WORDS + 10 + CODES
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4}
    network = phi.PhiForCausalLM(PhiConfig(vocab_size=mask + 1, resid_pdrop=0.0, **sizes)).eval()
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.15)
    prompts = ([5, 6, 7], [9, 8, 7, 6, 5, 4, 3], [])
    rows = [[WORDS + 5, 1, *prompt, 0] for prompt in prompts]
    text = torch.tensor([[WORDS] * (LENGTH + 1 - len(row)) + row for row in rows])
    image = torch.randint(CODES, (3, TOKENS)) + first
    image[torch.rand(3, TOKENS) < 0.5] = mask
    edges = [torch.full((3, 1), WORDS + marker) for marker in (1, 2)]
    sequence = torch.cat([text, edges[0], image, edges[1]], 1)
    ids = {"pad_id": WORDS, "soi_id": WORDS + 1, "eoi_id": WORDS + 2}
    seen = prompting.create_attention_mask_predict_next(sequence.clone(), rm_pad_in_image=True, **ids)
    with torch.no_grad():
        logits = network(input_ids=sequence, attention_mask=seen)["logits"][:, -(TOKENS + 1) : -1, first:-1]
    how = {"ch": 32, "z_channels": BITS, "resolution": SIDE}
    encoder = magvit.VQGANEncoder(ch_mult=[1, 2, 2], num_res_blocks=[2, 1, 2], **how)
    decoder = magvit.VQGANDecoder(ch_mult=[1, 1, 2], num_res_blocks=[1, 2, 1], **how)
    signs = magvit.LFQuantizer(codebook_dim=BITS)
    pixels = torch.randn(2, 3, SIDE, SIDE)
    with torch.no_grad():
        channels = encoder(pixels)
        codes = signs.get_indices(channels).flatten(1)
        decoded = decoder(signs.get_codebook_entry(codes))["output"]
    with torch.device("meta"):
        whole = {"encoder": magvit.VQGANEncoder(), "decoder": magvit.VQGANDecoder(), "quantize": magvit.LFQuantizer()}
    parts = {"encoder": encoder, "decoder": decoder, "quantize": signs}
    found = {
        "transformer": {f"showo.{name}": value for name, value in network.state_dict().items()},
        "tokenizer": {f"{part}.{name}": v for part, one in parts.items() for name, v in one.state_dict().items()},
        "names": {f"{part}.{n}": tuple(v.shape) for part, one in whole.items() for n, v in one.state_dict().items()},
        "text": text,
        "image": image,
        "logits": logits,
        "pixels": pixels,
        "channels": channels,
        "codes": codes,
        "decoded": decoded,
    }
    flat = {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}
    flat |= {f"{part}/{name}": v for part in ("transformer", "tokenizer") for name, v in found[part].items()}
    contiguous = {name: value.contiguous() for name, value in flat.items()}
    save_file(contiguous, file, metadata={"names": json.dumps(found["names"])})
    click.echo(f"wrote {file}")


@main.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True))
def ours(file: Path) -> None:
    """Load the same weights into sanac's classes, and compare."""
    from sanac.core.family.magvit import recognise_magvit
    from sanac.core.family.showo import recognise_showo
    from sanac.core.safetensors_header import TensorRef
    from sanac.tokens.image_tokenizer import ImageTokenizer
    from sanac.tokens.transformer import MaskedTokenTransformer

    def refs(shapes: dict[str, tuple[int, ...]]) -> dict[str, TensorRef]:
        return {name: TensorRef(name, "F32", shape, Path("x"), 0, 0) for name, shape in shapes.items()}

    flat = load_file(file)
    ref: dict[str, Any] = {name: value for name, value in flat.items() if "/" not in name}
    for part in ("transformer", "tokenizer"):
        ref[part] = {name.partition("/")[2]: value for name, value in flat.items() if name.startswith(f"{part}/")}
    with safe_open(file, framework="pt") as opened:
        names = json.loads(opened.metadata()["names"])
    ref["names"] = {name: tuple(shape) for name, shape in names.items()}
    shapes = {part: {n: tuple(v.shape) for n, v in ref[part].items()} for part in ("transformer", "tokenizer")}
    config = {"llm_vocab_size": WORDS, "codebook_size": CODES, "num_vq_tokens": TOKENS, "text_length": LENGTH}
    network = MaskedTokenTransformer(recognise_showo(refs(shapes["transformer"]), config, "theirs")).eval()
    network.load_state_dict(ref["transformer"], strict=False)
    images = ImageTokenizer(recognise_magvit(refs(shapes["tokenizer"]), {}, "theirs"))
    images.load_state_dict(ref["tokenizer"])
    with torch.no_grad():
        differences = {
            "logits": network(ref["text"], ref["image"]) - ref["logits"],
            "channels": images.encoder(ref["pixels"]) - ref["channels"],
            "images": images.decode(ref["codes"], SIDE // 4) - ref["decoded"],
        }
        same = bool((images.encode(ref["pixels"]) == ref["codes"]).all())
    for name, difference in differences.items():
        click.echo(f"{name}: {float(difference.abs().max()):.1e}")
    whole = recognise_magvit(refs(ref["names"]), {}, "theirs").tensors == ref["names"]
    click.echo(f"codes equal: {same}; {len(ref['names'])} names and shapes of the full size equal: {whole}")


if __name__ == "__main__":
    main()

"""Schemes, inputs and the programs of stock diffusers that tests of packed weights share."""

from pathlib import Path

import torch
from safetensors.torch import load_file

SCHEMES = ("int8-wo", "int4-wo", "fp8-wo")


BRIEFLY = ("--data", "shapes", "--samples", "16", "--batch", "4", "--steps", "2")


STOCK = """
import sys, torch
from diffusers import SanaTransformer2DModel
from safetensors.torch import load_file, save_file
assert not any(name.split(".")[0] == "sanac" for name in sys.modules)
model = SanaTransformer2DModel.from_pretrained(sys.argv[1], subfolder="transformer", torch_dtype=torch.bfloat16).eval()
inputs = load_file(sys.argv[2])
with torch.no_grad():
    save_file({"out": model(*(inputs[name] for name in "abc"), return_dict=False)[0].contiguous()}, sys.argv[3])
"""


STOCK_PIPELINE = """
import sys, torch
from diffusers import SanaPipeline
from safetensors.torch import save_file
assert not any(name.split(".")[0] == "sanac" for name in sys.modules)
pipe = SanaPipeline.from_pretrained(sys.argv[1], torch_dtype=torch.bfloat16)
how = dict(num_inference_steps=2, height=512, width=512, use_resolution_binning=False, output_type="pt")
image = pipe("a red circle", generator=torch.Generator().manual_seed(0), **how).images
save_file({"image": image.contiguous()}, sys.argv[2])
"""


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 16, 4, 4, generator=generator).bfloat16()
    return latents, torch.randn(2, 7, 64, generator=generator).bfloat16(), torch.tensor([500.0, 20.0])

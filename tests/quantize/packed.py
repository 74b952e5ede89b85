"""Schemes, inputs and the programs of stock diffusers that tests of packed weights share."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


# Reads {"code", "words", "folder"} line by line and runs each program; answers with an empty line, or a traceback.
_READER = """
import json, os, sys, traceback
import torch, diffusers
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
for line in sys.stdin:
    asked = json.loads(line)
    os.chdir(asked["folder"])
    sys.argv, error = ["-c", *asked["words"]], ""
    try:
        exec(asked["code"], {"__name__": "__main__"})
    except BaseException:
        error = traceback.format_exc()
    answers.write(json.dumps(error) + "\\n")
    answers.flush()
"""
Reader = Callable[..., None]


@contextmanager
def reader() -> Iterator[Reader]:
    """A process with stock diffusers and without sanac, that runs programs in a folder: libraries are loaded once."""
    command = [sys.executable, "-P", "-c", _READER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout

        def read(code: str, folder: Path, *words: str) -> None:
            process.stdin.write(json.dumps({"code": code, "words": words, "folder": str(folder)}) + "\n")
            process.stdin.flush()
            error = json.loads(process.stdout.readline())
            assert not error, error

        yield read
        process.stdin.close()


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 16, 4, 4, generator=generator).bfloat16()
    return latents, torch.randn(2, 7, 64, generator=generator).bfloat16(), torch.tensor([500.0, 20.0])

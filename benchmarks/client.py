"""A folder that `sanac export` wrote, in a client that nobody here wrote: optimum-onnx's diffusion pipeline.

In an environment of its own, as optimum-onnx wants an older transformers, and that an older diffusers (unpinned, pip
searches for a quarter of an hour):
    python -m venv client
    client/bin/pip install torch diffusers==0.35.2 transformers==4.57.3 accelerate 'optimum-onnx[onnxruntime]==0.1.0'
    client/bin/python benchmarks/client.py EXPORTED

Paints the same prompts from the same noises with it and with torch, prints the least signal to noise of a picture.
"""

import argparse
import json
import math
from importlib import metadata

import numpy as np
import torch
from diffusers import SanaPipeline
from optimum.onnxruntime import ORTDiffusionPipeline

PROMPTS = ["a red circle", "two blue squares", "a green triangle left of a yellow circle"]
NAMES = ("optimum-onnx", "optimum", "transformers", "diffusers", "onnxruntime", "torch")


def painted(pipeline: SanaPipeline, side: int, steps: int) -> np.ndarray:
    """All prompts in one batch, as arrays."""
    pipeline.set_progress_bar_config(disable=True)
    seeds = [torch.Generator().manual_seed(seed) for seed in range(len(PROMPTS))]
    settings = {"height": side, "width": side, "num_inference_steps": steps, "use_resolution_binning": False}
    return pipeline(PROMPTS, generator=seeds, output_type="np", **settings).images


def main() -> None:
    """Load both, paint, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--sides", type=int, nargs="+", default=[512, 768])
    asked = parser.parse_args()
    torch.manual_seed(0)
    theirs = SanaPipeline.from_pretrained(asked.folder, torch_dtype=torch.float32)
    ours = ORTDiffusionPipeline.from_pretrained(asked.folder)
    found = {}
    for side in asked.sides:
        pictures, wanted = painted(ours, side, asked.steps), painted(theirs, side, asked.steps)
        error = float(np.square(pictures - wanted).mean(axis=(1, 2, 3)).max())
        found[f"{side} px, PSNR in dB"] = round(-10 * math.log10(max(error, 1e-12)), 1)
    print(json.dumps({"versions": {name: metadata.version(name) for name in NAMES}, **found}))


if __name__ == "__main__":
    main()

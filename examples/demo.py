"""The main job on a small model, start to finish: build, inspect, prune, load in stock diffusers, compare.

python examples/demo.py   (or `make demo`)
"""

import logging
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
logging.disable(logging.WARNING)
warnings.filterwarnings("ignore")

BLOCKS, KEPT = 12, (0, 1, 2, 3, 10, 11)


def sanac(*arguments: str) -> None:
    """Show a command, run it, fail with it."""
    print(f"\n$ sanac {' '.join(arguments)}", flush=True)
    subprocess.run([sys.executable, "-m", "sanac", *arguments], check=True)


def same_function(source: Path, pruned: Path) -> bool:
    """Whether stock diffusers computes, bit for bit, what deleting the blocks in memory gives."""
    import torch
    from diffusers import SanaTransformer2DModel

    expected = SanaTransformer2DModel.from_pretrained(source, subfolder="transformer").eval()
    expected.transformer_blocks = torch.nn.ModuleList(expected.transformer_blocks[index] for index in KEPT)
    found = SanaTransformer2DModel.from_pretrained(pruned, subfolder="transformer").eval()
    torch.manual_seed(0)
    inputs = {
        "hidden_states": torch.randn(2, 16, 4, 4),
        "encoder_hidden_states": torch.randn(2, 12, 64),
        "timestep": torch.tensor([10.0, 900.0]),
    }
    with torch.no_grad():
        return torch.equal(found(**inputs).sample, expected(**inputs).sample)


def draw(pruned: Path, picture: Path) -> None:
    """One image from the pruned pipeline, with nothing but diffusers."""
    import torch
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(pruned)
    pipe.set_progress_bar_config(disable=True)
    seed = torch.Generator().manual_seed(0)
    image = pipe("two red circles", height=512, width=512, use_resolution_binning=False, generator=seed).images[0]
    image.save(picture)


def main() -> int:
    """Run the demo; exits 5 when the comparison fails."""
    from sanac.tiny.build import build, save

    with tempfile.TemporaryDirectory(prefix="sanac-demo-") as folder:
        os.chdir(folder)
        source, pruned = Path("small-sana"), Path("pruned")
        print(f"building an untrained SANA of {BLOCKS} blocks with diffusers' own classes", flush=True)
        save(build(BLOCKS), source)
        sanac("inspect", str(source))
        keep = ",".join(map(str, KEPT))
        sanac("prune", str(source), "--keep", keep, "--out", str(pruned), "--dry-run")
        sanac("prune", str(source), "--keep", keep, "--out", str(pruned))
        sanac("inspect", str(pruned), "--scan")
        sanac("prune", "--keep", keep, "--out", str(pruned))
        equal = same_function(source, pruned)
        draw(pruned, Path("image.png"))
        print(f"\nverdict: {BLOCKS} -> {len(KEPT)} blocks; stock diffusers loads it and draws an image with it;")
        print(f"its output is {'bitwise' if equal else 'NOT'} that of the model whose blocks were deleted in memory")
        os.chdir("/")
    return 0 if equal else 5


if __name__ == "__main__":
    sys.exit(main())

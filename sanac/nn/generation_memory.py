"""How many images fit into memory at once: the weights of the pipeline, and what one image takes while it is made.

A block of the transformer has activations of 24 states (tokens x width) on each branch of guidance, the autoencoder's
decoder six tensors of its widest stage at full size (measured on DC-AE: 4.7 to 5.8). The larger of both counts: an
image isn't decoded while another one is denoised.
"""

from sanac.core.artifact.model import Model
from sanac.core.cost import OVERHEAD
from sanac.nn.calibration.sampling import WORK
from sanac.nn.device import free_memory
from sanac.nn.guidance import branches_of
from sanac.nn.pipeline_config import native

MOST = 16  # images per batch: more are hardly faster
MANY = 32  # of small ones, where many are judged
DECODED = 6  # tensors of the decoder's last stage that are in memory together
_SHARE = 0.9  # of the free memory that may be used


def weights_memory(model: Model, device: str) -> int:
    """Bytes of all components as they are loaded: in fp32 on a processor, in their own dtype on a GPU."""
    parts = [part.weights for part in model.components if part.weights]
    return sum(4 * one.count if device == "cpu" else one.size for one in parts)


def image_memory(model: Model, device: str, size: tuple[int, int] | None = None, tile: int | None = None) -> int:
    """Bytes that an image of this many pixels (width, height) takes while it is generated."""
    architecture, bytes_each = model.architecture, 4 if device == "cpu" else 2
    config = next((part.config for part in model.others if part.name == "vae"), {})
    factor, side = native(model)
    width, height = size or (side, side)
    tokens = width * height / (factor * architecture.patch_size) ** 2
    denoised = WORK * tokens * architecture.width * branches_of(model)
    decoded_side = min(tile or width, width) * min(tile or height, height)
    decoded = DECODED * (config.get("decoder_block_out_channels") or (128,))[0] * decoded_side
    return int(bytes_each * max(denoised, decoded))


def batch_that_fits(
    model: Model, device: str, size: tuple[int, int] | None = None, tile: int | None = None, most: int = MOST
) -> int:
    """Images per batch, from 1 to `most`: as many as the free memory holds beside the weights."""
    taken = weights_memory(model, device) + (OVERHEAD if device == "cpu" else 0)
    return images_that_fit(free_memory(device), taken, image_memory(model, device, size, tile), most)


def images_that_fit(free: int, taken: int, each: int, most: int = MOST) -> int:
    """Images per batch, from 1 to `most`, in `free` bytes of which `taken` are in use for something else."""
    return max(1, min(most, int((_SHARE * free - taken) // each)))

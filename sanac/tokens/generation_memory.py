"""How many images of a token generator fit into memory at once.

A layer has activations of 24 states (tokens x width) and three copies of its attention on each branch of guidance, the
head three of all logits, the decoder six tensors of its widest stage at full size.
"""

from sanac.core.artifact.token_model import TokenModel
from sanac.core.cost import OVERHEAD
from sanac.nn.calibration.sampling import WORK
from sanac.nn.device import free_memory
from sanac.nn.generation_memory import DECODED, images_that_fit

_COPIES = 3  # of attention and of logits
_BRANCHES = 2


def weights_memory(model: TokenModel, device: str) -> int:
    """Bytes of the networks as they are loaded: the transformer in fp32 on a processor and in bf16 on a GPU."""
    transformer, images = model.transformer.weights, model.image_tokenizer.weights
    assert transformer
    assert images
    return (4 if device == "cpu" else 2) * transformer.count + 4 * images.count


def image_memory(model: TokenModel) -> int:
    """Bytes that an image takes while it is generated."""
    shape, decoder = model.architecture, model.image_architecture.decoder
    tokens = shape.text_length + shape.image_tokens + 3
    attended = WORK * tokens * shape.width + _COPIES * shape.heads * tokens**2
    predicted = _BRANCHES * (attended + _COPIES * shape.image_tokens * shape.codes)
    return 4 * max(predicted, DECODED * decoder.channels[0] * model.image_side**2)


def tokens_that_fit(model: TokenModel, device: str, most: int) -> int:
    """Images per batch, from 1 to `most`: as many as the free memory holds beside the weights."""
    taken = weights_memory(model, device) + (OVERHEAD if device == "cpu" else 0)
    return images_that_fit(free_memory(device), taken, image_memory(model), most)

"""Whether a model is a whole pipeline, which generating images needs."""

from sanac.core.artifact.model import Model
from sanac.core.errors import UsageError


def check_complete(model: Model) -> None:
    """UsageError if a model lacks components that generating images needs."""
    if model.model_index is None or not {"text_encoder", "vae"} <= {part.name for part in model.others}:
        raise UsageError(
            f"{model.located.name} is a transformer without the rest of its pipeline",
            why="generating images needs its text encoder and autoencoder",
            hint="quantize the complete pipeline"
            if model.weights.quantized
            else f"sanac convert {model.located.path} --to diffusers --pipeline PIPELINE --out complete",
        )

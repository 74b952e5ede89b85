"""A text encoder read layer by layer computes what its class does when it is loaded as a whole."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sanac.core.artifact.model import Component, Model, open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.errors import InvalidInput
from sanac.nn.layer_streaming import StreamedTextEncoder, layer_parameters, streams
from sanac.nn.stock_loading import load_component


def inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(3, 17, dtype=torch.int64)
    mask[-1, 9:] = 0
    return {"input_ids": torch.randint(0, 47, (3, 17), generator=generator), "attention_mask": mask}


def text_encoder_of(model: Model) -> Component:
    return next(part for part in model.components if part.name == "text_encoder")


def opened(pipeline: Path) -> Model:
    return open_model(locate(str(pipeline)))


@torch.no_grad()
def assert_same(model: Model) -> None:
    encoder, whole = StreamedTextEncoder(model), load_component(model, "text_encoder", torch.float32)
    found = encoder(**inputs())
    expected = whole(**inputs(), output_hidden_states=True)
    assert torch.equal(found, expected.last_hidden_state)
    assert len(encoder.states) == 1 + len(whole.layers)
    assert torch.equal(encoder.states[1], expected.hidden_states[1])
    assert all(parameter.is_meta for layer in encoder.module.layers for parameter in layer.parameters())


def test_the_same_as_the_loaded_one(pipeline: Path) -> None:
    model = opened(pipeline)
    assert streams(text_encoder_of(model))
    assert_same(model)
    part = text_encoder_of(model)
    assert part.weights
    assert 0 < 2 * layer_parameters(part) < part.weights.count


def test_names_of_a_model_that_holds_more(pipeline: Path, tmp_path: Path) -> None:
    """The prefix that a causal language model's checkpoint has."""
    folder = Path(shutil.copytree(pipeline, tmp_path / "prefixed")) / "text_encoder"
    file = folder / "model.safetensors"
    save_file({f"model.{name}": tensor for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    plain, prefixed = (StreamedTextEncoder(opened(path))(**inputs()) for path in (pipeline, tmp_path / "prefixed"))
    assert torch.equal(plain, prefixed)


def test_a_missing_weight_is_named(pipeline: Path, tmp_path: Path) -> None:
    file = Path(shutil.copytree(pipeline, tmp_path / "broken")) / "text_encoder" / "model.safetensors"
    tensors = load_file(file)
    del tensors["layers.1.mlp.up_proj.weight"]
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(InvalidInput, match="text_encoder") as caught:
        StreamedTextEncoder(opened(tmp_path / "broken"))(**inputs())
    assert "mlp.up_proj.weight" in str(caught.value.why)


def test_other_classes_are_loaded_as_a_whole(pipeline: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(pipeline, tmp_path / "other"))
    index = json.loads((root / "model_index.json").read_text())
    index["text_encoder"][1] = "T5EncoderModel"
    (root / "model_index.json").write_text(json.dumps(index))
    assert not streams(text_encoder_of(opened(root)))

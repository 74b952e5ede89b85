"""Opening folders and files that are models, and those that are not."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sanac.core.artifact.model import Model, open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.errors import InvalidInput


def opened(path: Path) -> Model:
    model = open_model(locate(str(path)))
    assert model.architecture
    return model


@pytest.fixture
def copy(pipeline: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pipeline, tmp_path / "copy"))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_layouts(pipeline: Path, sharded: Path) -> None:
    whole = opened(pipeline)
    assert (whole.kind, [part.name for part in whole.others]) == (
        "pipeline",
        ["scheduler", "text_encoder", "tokenizer", "vae"],
    )
    assert opened(sharded).kind == "transformer"
    assert opened(pipeline / "transformer").kind == "transformer"
    assert opened(pipeline / "transformer" / "diffusion_pytorch_model.safetensors").kind == "file"


def test_other_formats_beside_the_weights_stay_behind(copy: Path) -> None:
    for name in ("model.bin", "model.onnx", "model.fp16.safetensors", ".hidden", "model.safetensors.index.fp16.json"):
        (copy / "text_encoder" / name).write_bytes(b"x")
    parts = {part.name: part for part in opened(copy).others}
    assert [path.name for path in parts["text_encoder"].files] == ["config.json", "model.safetensors"]


@pytest.mark.parametrize(
    "changes",
    [
        {"transformer": ["diffusers", "FluxTransformer2DModel"]},
        {"transformer": None},
        {"../../etc": ["a", "b"]},
        {"vae": ["only one"]},
        {"vae": ["diffusers", 3]},
        {"unet": ["diffusers", "UNet"]},
    ],
)
def test_a_model_index_of_something_else(copy: Path, changes: dict[str, Any]) -> None:
    edit(copy / "model_index.json", **changes)
    with pytest.raises(InvalidInput, match="not a SANA pipeline"):
        opened(copy)


def test_a_component_that_links_elsewhere(copy: Path, pipeline: Path) -> None:
    shutil.rmtree(copy / "vae")
    (copy / "vae").symlink_to(pipeline / "vae")
    with pytest.raises(InvalidInput, match="points outside"):
        opened(copy)


def test_folders_and_files_that_are_no_models(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="not a model folder"):
        opened(tmp_path)
    (tmp_path / "x.bin").write_bytes(b"cos\nsystem\n")
    with pytest.raises(InvalidInput, match=r"neither a \.safetensors nor"):
        opened(tmp_path / "x.bin")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InvalidInput, match=r"no \.safetensors weights"):
        opened(tmp_path)


def test_a_config_that_contradicts_the_tensors(broken: Path) -> None:
    edit(broken / "config.json", num_layers=9)
    with pytest.raises(InvalidInput, match=r"config\.json doesn't match the weights") as caught:
        opened(broken)
    assert caught.value.why == "config.json says num_layers = 9, the tensors say 6"


def test_identity_is_of_content_not_of_place(pipeline: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(pipeline, tmp_path / "other"))  # keeps the times
    assert opened(copy).identity() == opened(pipeline).identity()
    edit(copy / "scheduler" / "scheduler_config.json", flow_shift=1.0)
    assert opened(copy).identity() != opened(pipeline).identity()


def test_the_embedded_model_is_known_by_its_bytes(tmp_path: Path) -> None:
    """Installed again, its files have other times: what was made of it is still its child."""
    tiny = locate("sanac:tiny")
    copy = Path(shutil.copytree(tiny.path, tmp_path / "again", copy_function=shutil.copyfile))  # times of today
    again = open_model(replace(tiny, path=copy, boundary=copy))
    assert again.identity() == open_model(tiny).identity()
    edit(copy / "scheduler" / "scheduler_config.json", flow_shift=1.0)
    assert open_model(replace(tiny, path=copy, boundary=copy)).identity() != open_model(tiny).identity()


def test_full_hash_sees_what_headers_do_not(broken: Path) -> None:
    import os

    path = broken / "diffusion_pytorch_model.safetensors"
    before, stat = opened(broken), path.stat()
    quick, full = before.identity(), before.identity(full_hash=True)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert opened(broken).identity() == quick
    assert opened(broken).identity(full_hash=True) != full


def test_a_folder_that_may_not_be_read(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(InvalidInput, match="cannot read") as caught:
        opened(broken)
    assert caught.value.why == "Permission denied"

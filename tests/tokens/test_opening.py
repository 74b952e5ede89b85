"""Token generators as they come: one folder, or Show-o's hub ids; and everything that can be wrong with them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sanac.core.artifact.model import open_model
from sanac.core.artifact.token_model import ELSEWHERE, TokenModel, open_any_model
from sanac.core.checkpoint.locate import locate
from sanac.core.errors import InvalidInput, MissingResource, SanacError, UsageError
from sanac.tokens.networks import open_networks
from tests.conftest import Sanac, build_token_model

VERBS = {
    "analyze": (),
    "prune": ("--target-blocks", "1"),
    "grow": ("--target-blocks", "3"),
    "finetune": ("--data-free",),
    "quantize": ("--scheme", "int8"),
    "schedule": ("--budget", "0.5"),
    "export": (),
    "convert": ("--to", "single"),
}


def opened(folder: Path | str) -> TokenModel:
    model = open_any_model(locate(str(folder)))
    assert isinstance(model, TokenModel)
    return model


@pytest.fixture
def copied(token_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(token_model, tmp_path / "copied"))


def rewrite(file: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def change_json(file: Path, **values: object) -> None:
    value = json.loads(file.read_text()) | values
    file.write_text(json.dumps({name: one for name, one in value.items() if one is not None}))


def test_it_is_read_without_weights(token_model: Path) -> None:
    model = opened(token_model)
    assert (model.architecture.layers, model.architecture.image_tokens, model.image_side) == (2, 16, 16)
    assert model.edges == ("<bos>", "<eos>")
    assert model.identity() == opened(token_model).identity()


def test_weights_are_those_of_the_file(token_model: Path) -> None:
    networks = open_networks(opened(token_model))
    stored = load_file(token_model / "transformer" / "model.safetensors")
    state = networks.transformer.state_dict()
    assert stored.keys() == state.keys()
    assert all(torch.equal(state[name], value.float()) for name, value in stored.items())
    assert not networks.transformer.training


def test_it_has_no_place_in_what_works_on_sana(token_model: Path) -> None:
    with pytest.raises(UsageError, match="is a token generator, and this works on SANA models only"):
        open_model(locate(str(token_model)))


@pytest.mark.parametrize(("verb", "options"), VERBS.items(), ids=list(VERBS))
def test_verbs_for_sana_refuse_it_in_one_sentence(
    sanac: Sanac, token_model: Path, verb: str, options: tuple[str, ...]
) -> None:
    ran = sanac(verb, token_model, *options, "--out", "out")
    assert ran.code == 2, ran.err
    assert "is a token generator, and this works on SANA models only" in ran.err
    assert not Path("out").exists()


@pytest.fixture
def hub(token_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub's cache with Show-o as it lies there: three repositories, weights in torch's own format."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    names = {"showlab/show-o-256": "transformer", **{one: name for name, one in ELSEWHERE.items()}}
    for repository, name in names.items():
        home = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
        (home / "blobs").mkdir(parents=True)
        snapshot = home / "snapshots" / ("a" * 40)
        snapshot.mkdir(parents=True)
        (home / "refs").mkdir()
        (home / "refs" / "main").write_text("a" * 40)
        for number, file in enumerate(sorted((token_model / name).iterdir())):
            blob = home / "blobs" / f"{number:040}"
            if file.suffix == ".safetensors":
                torch.save(load_file(file), blob)
                (snapshot / "pytorch_model.bin").symlink_to(blob)
            else:
                shutil.copy(file, blob)
                (snapshot / file.name).symlink_to(blob)
    return tmp_path / "hub"


def test_show_o_is_opened_by_its_name(hub: Path, token_model: Path, sanac: Sanac) -> None:
    model = opened("showlab/show-o-256")
    assert model.located.name == "showlab/show-o-256"
    assert model.image_tokenizer.folder.is_relative_to(hub / "models--showlab--magvitv2")
    theirs, ours = open_networks(model), open_networks(opened(token_model))
    state = ours.transformer.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in theirs.transformer.state_dict().items())
    codes = torch.arange(16)[None]
    assert torch.equal(theirs.images.decode(codes, 4), ours.images.decode(codes, 4))
    ran = sanac("generate", "showlab/show-o-256", "a red circle", "--steps", "3")
    assert ran.code == 0, ran.err


@pytest.mark.parametrize("repository", ELSEWHERE.values())
def test_what_is_missing_is_named_with_the_command_that_fetches_it(hub: Path, repository: str) -> None:
    shutil.rmtree(hub / f"models--{repository.replace('/', '--')}")
    with pytest.raises(MissingResource, match="is not on this machine") as raised:
        opened("showlab/show-o-256")
    assert f"hf download {repository}" in raised.value.hint


class Harmful:
    """What a hostile pickle does."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (open, ("harmed",))


def test_a_pickle_that_runs_code_is_refused_and_doesnt_run(hub: Path, sanac: Sanac) -> None:
    blob = (next(hub.glob("models--showlab--show-o-256/snapshots/*/pytorch_model.bin"))).resolve()
    torch.save({"showo.model.embed_tokens.weight": torch.zeros(2, 2), "x": Harmful()}, blob)
    ran = sanac("inspect", "showlab/show-o-256")
    assert ran.code == 3, ran.err
    assert not Path("harmed").exists()


def drop(name: str) -> Callable[[Path], None]:
    return lambda folder: rewrite(folder / "transformer" / "model.safetensors", lambda tensors: tensors.pop(name))


def add(part: str, name: str, value: torch.Tensor) -> Callable[[Path], None]:
    return lambda folder: rewrite(folder / part / "model.safetensors", lambda tensors: tensors.update({name: value}))


def with_config(**values: object) -> Callable[[Path], None]:
    return lambda folder: change_json(folder / "transformer" / "config.json", **values)


def with_other_codebook(folder: Path) -> None:
    build_token_model(folder.with_name("other"), bits=6)
    shutil.rmtree(folder / "image_tokenizer")
    shutil.copytree(folder.with_name("other") / "image_tokenizer", folder / "image_tokenizer")


def with_other_words(folder: Path) -> None:
    file = folder / "tokenizer" / "tokenizer.json"
    value = json.loads(file.read_text())
    value["model"]["vocab"]["lighthouse"] = len(value["model"]["vocab"])
    file.write_text(json.dumps(value))


def linked_out(folder: Path) -> None:
    outside = folder.with_name("outside.safetensors")
    shutil.move(folder / "transformer" / "model.safetensors", outside)
    (folder / "transformer" / "model.safetensors").symlink_to(outside)


def write(file: str, data: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / file).write_bytes(data) and None


LAYER = "showo.model.layers.0.mlp.fc1.weight"
BAD = {
    "a missing tensor": (drop("showo.model.layers.1.self_attn.dense.bias"), "self_attn.dense.bias is missing"),
    "no layer": (drop("showo.model.layers.0.self_attn.q_layernorm.weight"), "not a Show-o transformer"),
    "another shape": (add("transformer", LAYER, torch.zeros(64, 31)), f"{LAYER} is 64x31, not 64x32"),
    "a name of nothing": (add("transformer", "showo.../../x", torch.zeros(1)), "showo.../../x is unknown"),
    "a layer far away": (add("transformer", "showo.model.layers.999999999.x", torch.zeros(1)), "names layer 999999999"),
    "NaN": (add("transformer", LAYER, torch.full((64, 32), torch.nan)), f"{LAYER} has NaN or infinite values"),
    "NaN in the decoder": (
        add("image_tokenizer", "decoder.conv_out.bias", torch.full((3,), torch.inf)),
        "decoder.conv_out.bias has NaN or infinite values",
    ),
    "another vocabulary": (with_config(vocab_size=90), "config.json says a vocabulary of 90"),
    "more words": (with_config(llm_vocab_size=47), "doesn't fit Show-o's architecture"),
    "no words": (with_config(llm_vocab_size="many"), "doesn't say llm_vocab_size"),
    "a huge vocabulary": (with_config(llm_vocab_size=10**12), "doesn't say llm_vocab_size"),
    "too many tokens": (with_config(num_vq_tokens=16_000_000), "exceed 2048 positions"),
    "too long a text": (with_config(text_length=1 << 20), "exceed 2048 positions"),
    "no square": (with_config(num_vq_tokens=15), "num_vq_tokens is 15, which is not a square"),
    "another codebook": (with_other_codebook, "the transformer knows 32 codes"),
    "another text tokenizer": (with_other_words, "the transformer knows 46 words"),
    "a link out of the folder": (linked_out, "points outside"),
    "no tokenizer": (write("tokenizer/tokenizer.json", b"{}"), "is not a tokenizer"),
    "a broken tokenizer": (write("tokenizer/tokenizer.json", b'{"model"'), "is not valid JSON"),
    "no bos": (write("tokenizer/tokenizer_config.json", b'{"eos_token": "<eos>"}'), "doesn't have the bos_token"),
    "a config that is a list": (write("transformer/config.json", b"[]"), "does not hold a JSON object"),
    "cut weights": (write("transformer/model.safetensors", b"\xff" * 40), "model.safetensors"),
    "no groups": (write("image_tokenizer/config.json", b'{"norm_groups": 3}'), "3 groups don't divide its channels"),
    "groups of words": (write("image_tokenizer/config.json", b'{"norm_groups": "a"}'), "'a' groups don't divide"),
    "no image tokenizer": (lambda folder: shutil.rmtree(folder / "image_tokenizer"), "needs its image tokenizer"),
}


@pytest.mark.parametrize(("harm", "message"), BAD.values(), ids=list(BAD))
def test_bad_input_is_named(copied: Path, harm: Callable[[Path], None], message: str) -> None:
    harm(copied)
    with pytest.raises(SanacError) as raised:
        open_networks(opened(copied))
    assert isinstance(raised.value, InvalidInput)
    said = "\n".join([raised.value.message, raised.value.why, *raised.value.problems])
    assert message in said, said


def test_a_tokenizer_that_rust_refuses(copied: Path) -> None:
    file = copied / "tokenizer" / "tokenizer.json"
    change_json(file, pre_tokenizer={"type": "Nothing"})
    with pytest.raises(InvalidInput, match="is not a tokenizer"):
        open_networks(opened(copied))


def test_inspect_reads_headers_and_with_scan_every_byte(sanac: Sanac, copied: Path) -> None:
    ran = sanac("inspect", copied, "--json")
    assert ran.code == 0, ran.err
    assert (ran.json["family"], ran.json["layers"], ran.json["codes"], ran.json["image_side"]) == ("Show-o", 2, 32, 16)
    shown = sanac("inspect", copied, "--scan")
    assert "16 tokens of 32 codes" in shown.out
    assert "scanned: every value is finite" in shown.out
    add("transformer", LAYER, torch.full((64, 32), torch.nan))(copied)
    assert sanac("inspect", copied).code == 0
    ran = sanac("inspect", copied, "--scan")
    assert ran.code == 3
    assert "2,048 of 2,048 values are NaN or Inf" in ran.err


def test_options_of_one_kind_are_refused_for_the_other(sanac: Sanac, token_model: Path, pipeline: Path) -> None:
    for model, options, message in (
        (pipeline, ("--order", "halton"), "--order requires a token generator"),
        (pipeline, ("--temperature", "2"), "--temperature requires a token generator"),
        (token_model, ("--backend", "onnx"), "token generators are not exported"),
        (token_model, ("--size", "64x64"), "its images have one size"),
        (token_model, ("--order", "halton", "--steps", "17"), "--steps 17 is more than the 16 tokens"),
    ):
        ran = sanac("generate", model, "a red circle", *options)
        assert ran.code == 2, ran.err
        assert message in ran.err
        assert not list(Path().glob("pictures/*.png"))

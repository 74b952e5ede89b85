"""The gate in front of diffusers' and transformers' loaders: what they read is read here first, against allow-lists.

A loader acts on what a folder's JSON files say: it imports the modules and classes that they name, takes on adapters
and quantizers, and in some versions runs Python files. So no folder reaches one unless everything in these files is
known to belong to a SANA pipeline.

transformers saves arguments of earlier calls with a config (`local_files_only`), so for its classes a key that isn't
known may hold a number, true, false or null. Text and structures, which can name something, may not.
"""

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from sanac.core import json_files
from sanac.core.artifact.model import Component, Model
from sanac.core.checkpoint.locate import inside
from sanac.core.errors import InvalidInput
from sanac.core.requirements import check_loaders
from sanac.nn.silence_libraries import quiet

PIPELINES = (
    "SanaPipeline",
    "SanaSprintPipeline",
    "SanaSprintImg2ImgPipeline",
    "SanaPAGPipeline",
)
CLASSES: Mapping[str, Mapping[str, Collection[str]]] = {  # component -> library -> classes
    "transformer": {"diffusers": ("SanaTransformer2DModel",)},
    "vae": {"diffusers": ("AutoencoderDC",)},
    "text_encoder": {"transformers": ("Gemma2Model", "Gemma2ForCausalLM")},
    "tokenizer": {
        "transformers": ("GemmaTokenizer", "GemmaTokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend")
    },
    "scheduler": {
        "diffusers": ("DPMSolverMultistepScheduler", "FlowMatchEulerDiscreteScheduler", "SCMScheduler"),
    },
}
_PRIVATE = frozenset({"_class_name", "_diffusers_version", "_name_or_path"})
_EARLIER = frozenset({"torch_dtype", "hidden_act", "cache_implementation", "rope_theta", "rope_scaling"})  # Gemma2's
_TOKENIZER = frozenset(
    {
        "add_bos_token", "add_eos_token", "add_prefix_space", "added_tokens_decoder", "additional_special_tokens",
        "backend", "bos_token", "chat_template", "clean_up_tokenization_spaces", "cls_token", "eos_token",
        "extra_special_tokens", "is_local", "legacy", "mask_token", "max_length", "model_input_names",
        "model_max_length", "name_or_path", "pad_to_multiple_of", "pad_token", "pad_token_type_id", "padding_side",
        "sep_token", "sp_model_kwargs", "spaces_between_special_tokens", "special_tokens_map_file",
        "split_special_tokens", "stride", "tokenizer_class", "truncation_side", "truncation_strategy", "unk_token",
        "use_default_system_prompt",
    }
)  # fmt: skip
_EMPTY = ("sp_model_kwargs", "special_tokens_map_file")  # keys that could name other files: only without a value
_ACTED_ON = ("adapter_config.json", "adapter_model.safetensors", "modeling_config.json")  # read when they are there


def check_loadable(model: Model, names: Collection[str] | None = None) -> None:
    """InvalidInput unless the loaders may read these components of a model; all of them if `names` is None."""
    check_loaders()
    chosen = [part for part in model.components if names is None or part.name in names]
    problems = [*_index_problems(model.model_index or {})]
    problems += [problem for part in chosen for problem in _part_problems(part, model.located.boundary)]
    _refuse(model.located.path, problems)


def check_config(component: str, class_name: str, config: Mapping[str, Any], where: Path) -> None:
    """InvalidInput unless a component of this class may be built from a config."""
    check_loaders()
    _refuse(where, [*_class_problems(component, class_name), *_config_problems(class_name, config, "config.json")])


def _refuse(where: Path, problems: list[str]) -> None:
    if problems:
        raise InvalidInput(
            f"{where} is not loaded",
            why=f"{problems[0]}, which doesn't belong to a SANA pipeline",
            problems=problems,
            hint="remove it from the folder, or fetch the model from its authors",
        )


def _index_problems(index: Mapping[str, Any]) -> Iterator[str]:
    """Everything in model_index.json that isn't SANA's."""
    for name, value in index.items():
        if name == "_class_name":
            if value not in PIPELINES:
                yield f"model_index.json names the pipeline {value!r}"
        elif name in _PRIVATE:
            if not isinstance(value, str):
                yield f"model_index.json has {name} = {value!r}"
        elif name not in CLASSES:
            if value != [None, None]:
                yield f"model_index.json has {name} = {value!r}"
        elif value != [None, None] and not (
            isinstance(value, list) and len(value) == 2 and value[1] in CLASSES[name].get(str(value[0]), ())
        ):
            yield f"model_index.json has {name} = {value!r}"


def _part_problems(part: Component, boundary: Path) -> Iterator[str]:
    """Everything in a component's folder that a loader would act on and that isn't SANA's."""
    yield from _class_problems(part.name, part.class_name)
    for path in sorted(part.folder.iterdir()):
        if path.suffix in {".py", ".pyc", ".so"} or path.name in _ACTED_ON:
            yield f"{part.name}/{path.name} is there"
    if part.name in {"scheduler", "tokenizer"}:
        file = f"{'scheduler' if part.name == 'scheduler' else 'tokenizer'}_config.json"
        path = part.folder / file
        if path.is_file():
            config = json_files.read_object(inside(boundary, path), constants=True)
            yield from _config_problems(part.class_name, config, f"{part.name}/{file}")
        if (part.folder / "config.json").exists() and part.name == "tokenizer":  # says which class to take
            yield f"{part.name}/config.json is there"
    else:
        own = {"quantization_config"} if part.weights and part.weights.quantized else set()  # written by quantize
        config = {name: value for name, value in part.config.items() if name not in own}
        yield from _config_problems(part.class_name, config, f"{part.name}/config.json")


def _class_problems(component: str, class_name: str) -> Iterator[str]:
    known = [name for names in CLASSES.get(component, {}).values() for name in names]
    if class_name not in known:
        yield f"the {component} is a {class_name!r}"


def _config_problems(class_name: str, config: Mapping[str, Any], file: str) -> Iterator[str]:
    """Everything in a config that its class doesn't take, or that names another class."""
    library = _library(class_name)
    keys = _KEYS[library](class_name) if library else frozenset()
    for name, value in config.items():
        number = library != "diffusers" and isinstance(value, int | float | None) and not name.startswith("trust")
        if (name not in keys and not number) or (name in _EMPTY and value not in (None, {}, "")):
            yield f"{file} has {name!r}"
    if config.get("_class_name", class_name) != class_name:
        yield f"{file} names the class {config['_class_name']!r}"
    if class_name in CLASSES["text_encoder"]["transformers"]:
        if config.get("model_type") != "gemma2":
            yield f"{file} has model_type = {config.get('model_type')!r}"
        stated = config.get("architectures") or []
        if not isinstance(stated, list) or any(one not in CLASSES["text_encoder"]["transformers"] for one in stated):
            yield f"{file} has architectures = {stated!r}"
    tokenizers = CLASSES["tokenizer"]["transformers"]
    if class_name in tokenizers and config.get("tokenizer_class", class_name) not in tokenizers:
        yield f"{file} names the class {config['tokenizer_class']!r}"


def _library(class_name: str) -> str:
    """'diffusers', 'text encoder' or 'tokenizer': how the keys of a class are known; '' for other classes."""
    for component, libraries in CLASSES.items():
        for library, names in libraries.items():
            if class_name in names:
                return library if library == "diffusers" else component
    return ""


@cache
def _diffusers_keys(class_name: str) -> frozenset[str]:
    """Arguments of the constructor of the installed version."""
    with quiet():
        import diffusers

        kind = getattr(diffusers, class_name)
    return frozenset(inspect.signature(kind.__init__).parameters) - {"self"} | _PRIVATE


@cache
def _text_encoder_keys(_: str) -> frozenset[str]:
    """Fields of the installed version's config, and those of earlier ones."""
    with quiet():
        from transformers import Gemma2Config

    return frozenset(Gemma2Config().to_dict()) - {"quantization_config"} | _PRIVATE | _EARLIER


def _tokenizer_keys(_: str) -> frozenset[str]:
    return _TOKENIZER


_KEYS: Mapping[str, Callable[[str], frozenset[str]]] = {
    "diffusers": _diffusers_keys,
    "text_encoder": _text_encoder_keys,
    "tokenizer": _tokenizer_keys,
}

"""A component that is rewritten with quantized weights."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sanac.core import json_files
from sanac.core.artifact.staging import StagingArea
from sanac.core.checkpoint.quant_json import FILE, QuantConfig, header_digest
from sanac.core.progress import Reporter
from sanac.core.write.safetensors_writer import (
    TensorSource,
    encode_header,
    in_file_order,
    shard_names,
    split,
    write_weights,
)


@dataclass(frozen=True)
class ComponentRewrite:
    """The files of a component to write: config, quant.json and weights."""

    tensors: tuple[TensorSource, ...]
    stem: str  # file name stem of the weights
    config: Mapping[str, Any]
    metadata: Mapping[str, str]  # metadata of the .safetensors headers
    quantized: QuantConfig  # header digests not filled in yet
    memory: int  # bytes of memory to compute the tensors

    def place(self, staging: StagingArea, folder: str, shard_bytes: int, reporter: Reporter) -> dict[str, str]:
        """Write config.json, quant.json and the weights to `folder`; returns the tensors' digests."""
        shards = split(self.tensors, shard_bytes)
        names = shard_names(len(shards), self.stem)
        heads = (encode_header(in_file_order(shard), self.metadata) for shard in shards)
        headers = {name: header_digest(head[8:]) for name, head in zip(names, heads, strict=True)}
        config = {name: value for name, value in self.config.items() if name != "_name_or_path"}
        staging.place_bytes(f"{folder}/config.json", json_files.pretty(config))
        staging.place_bytes(f"{folder}/{FILE}", json_files.pretty(replace(self.quantized, headers=headers).to_json()))
        return write_weights(
            staging,
            folder,
            self.tensors,
            shard_bytes=shard_bytes,
            reporter=reporter,
            stem=self.stem,
            metadata=self.metadata,
        )

"""A STAND-IN for classic TensorRT, which installs nowhere without a GPU: its names, recorded, and no engine of it.

It answers the calls that sanac makes, in the way that TensorRT documents, and notes each in $TENSORRT_CALLS. Its
"engines" hold the graph itself, which onnxruntime runs: so everything around TensorRT can be tested, and nothing of it.
"""

import ctypes
import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

__version__ = "10.99.0.1"
_HEADER = 64  # bytes before the graph; no two builds are the same


def noted(name: str, *what: Any) -> None:
    if path := os.environ.get("TENSORRT_CALLS"):
        with Path(path).open("a") as file:
            file.write(json.dumps([name, *map(str, what)]) + "\n")


class _Named:
    def __init__(self, name: str, number: int) -> None:
        self.name, self.number = name, number

    def __int__(self) -> int:
        return self.number

    def __str__(self) -> str:
        return f"Kind.{self.name}"


def _header() -> bytes:
    return b"ftrt" + os.urandom(_HEADER - 4)


class NetworkDefinitionCreationFlag:
    STRONGLY_TYPED = _Named("STRONGLY_TYPED", 1)


class BuilderFlag:
    REFIT, WEIGHT_STREAMING = "REFIT", "WEIGHT_STREAMING"


class SerializationFlag:
    INCLUDE_REFIT = "INCLUDE_REFIT"


class ILogger:
    INFO, ERROR = _Named("INFO", 3), _Named("ERROR", 1)


class Logger(ILogger):
    def __init__(self, severity: Any) -> None:
        self.severity = severity


class IProgressMonitor: ...


class IStreamWriter: ...


_TYPES = {1: "FLOAT", 7: "INT64", 6: "INT32", 10: "HALF", 16: "BF16"}
_NUMPY = {1: np.float32, 7: np.int64, 6: np.int32, 10: np.float16}


class _Tensor:
    def __init__(self, value: onnx.ValueInfoProto) -> None:
        self.name, self.dtype = value.name, _Named(_TYPES[value.type.tensor_type.elem_type], 0)


class Network:
    model: onnx.ModelProto

    @property
    def num_inputs(self) -> int:
        return len(self.model.graph.input)

    @property
    def num_outputs(self) -> int:
        return len(self.model.graph.output)

    def get_input(self, number: int) -> _Tensor:
        return _Tensor(self.model.graph.input[number])

    def get_output(self, number: int) -> _Tensor:
        return _Tensor(self.model.graph.output[number])


class _Parser:
    """Takes a graph and its weights, as addresses."""

    num_errors = 0

    def load_model_proto(self, data: bytes) -> bool:
        self.model = onnx.load_from_string(data)
        return True

    def load_initializer(self, name: str, address: int, size: int) -> bool:
        (tensor,) = (one for one in self.model.graph.initializer if one.name == name)  # unknown ones are refused
        del tensor.external_data[:]
        tensor.data_location = onnx.TensorProto.DEFAULT
        tensor.raw_data = ctypes.string_at(address, size)
        return True


class OnnxParser(_Parser):
    def __init__(self, network: Network, logger: Any) -> None:
        self.network = network

    def parse_model_proto(self) -> bool:
        noted("parse", len(self.model.graph.node))
        self.network.model = self.model
        return True


class _Config:
    def __init__(self) -> None:
        self.progress_monitor: Any = None
        self.profiles: list[Any] = []

    def set_flag(self, flag: str) -> None:
        noted("flag", flag)

    def add_optimization_profile(self, profile: Any) -> None:
        self.profiles.append(profile)

    def create_timing_cache(self, data: bytes) -> bytes:
        noted("timing cache", len(data))
        return data

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        self.cache = cache
        return not cache or cache.endswith(b"timed")

    def get_timing_cache(self) -> Any:
        cache = self.cache

        class Cache:
            def serialize(self) -> bytes:
                return cache + b"timed"

        return Cache()


class _Profile:
    def set_shape(self, name: str, least: list[int], best: list[int], most: list[int]) -> None:
        noted("shape", name, least, best, most)
        assert all(a <= b <= c for a, b, c in zip(least, best, most, strict=True))


class Builder:
    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def create_network(self, flags: int) -> Network:
        noted("network", flags)
        return Network()

    def create_builder_config(self) -> _Config:
        return _Config()

    def create_optimization_profile(self) -> _Profile:
        return _Profile()

    def build_serialized_network_to_stream(self, network: Network, config: _Config, writer: Any) -> bool:
        assert config.profiles
        self.logger.log(ILogger.INFO, "this is a stand-in: no engine is built")
        watch = config.progress_monitor
        watch.phase_start("Building", None, 2)
        watch.phase_start("Inside", "Building", 2)
        for phase, step in (("Inside", 0), ("Inside", 1), ("Building", 0), ("Building", 1)):
            watch.step_complete(phase, step)
        watch.phase_finish("Inside")
        watch.phase_finish("Building")
        data = _header() + network.model.SerializeToString()
        return all(writer.write(data[at : at + 65536]) for at in range(0, len(data), 65536))


class _Context:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._answer().shape

    def execute_async_v3(self, stream: int) -> bool:
        found = self._answer()
        ctypes.memmove(self.addresses[self.session.get_outputs()[0].name], found.ctypes.data, found.nbytes)
        noted("execute", stream)
        return True

    def _answer(self) -> np.ndarray[Any, Any]:
        feed = {}
        for value in self.model.graph.input:
            kind, shape = np.dtype(_NUMPY[value.type.tensor_type.elem_type]), self.shapes[value.name]
            raw = ctypes.string_at(self.addresses[value.name], int(np.prod(shape)) * kind.itemsize)
            feed[value.name] = np.frombuffer(raw, kind).reshape(shape)
        return np.ascontiguousarray(self.session.run(None, feed)[0])


class _RuntimeCache:
    def deserialize(self, data: bytes) -> bool:
        noted("kernels", data)
        return True

    def serialize(self) -> bytes:
        return b"compiled"


class _RuntimeConfig:
    def create_runtime_cache(self) -> _RuntimeCache:
        return _RuntimeCache()

    def set_runtime_cache(self, cache: _RuntimeCache) -> bool:
        return True


class _Engine:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model

    @property
    def num_io_tensors(self) -> int:
        return len(self.model.graph.input) + len(self.model.graph.output)

    def get_tensor_name(self, number: int) -> str:
        return str([*self.model.graph.input, *self.model.graph.output][number].name)

    def get_tensor_dtype(self, name: str) -> _Named:
        every = [*self.model.graph.input, *self.model.graph.output]
        return next(_Tensor(value).dtype for value in every if value.name == name)

    def create_execution_context(self, config: Any = None) -> _Context:
        return _Context(self.model)

    def create_runtime_config(self) -> "_RuntimeConfig":
        return _RuntimeConfig()

    def create_serialization_config(self) -> _Config:
        return _Config()

    def serialize_with_config(self, config: _Config) -> bytes:
        return _header() + self.model.SerializeToString()

    def get_weight_streaming_automatic_budget(self) -> int:
        return 1

    @property
    def weight_streaming_budget_v2(self) -> int:
        return 0

    @weight_streaming_budget_v2.setter
    def weight_streaming_budget_v2(self, budget: int) -> None:
        noted("budget", budget)


class Runtime:
    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def deserialize_cuda_engine(self, data: bytes) -> _Engine | None:
        noted("deserialize", struct.unpack("4s", data[:4])[0])
        return _Engine(onnx.load_from_string(data[_HEADER:])) if data.startswith(b"ftrt") else None


class Refitter:
    def __init__(self, engine: _Engine, logger: Any) -> None:
        self.engine = engine

    def refit_cuda_engine(self) -> bool:
        noted("refit")
        return True


class OnnxParserRefitter(_Parser):
    def __init__(self, refitter: Refitter, logger: Any) -> None:
        self.refitter = refitter

    def refit_model_proto(self) -> bool:
        old = {one.name: len(one.raw_data) for one in self.refitter.engine.model.graph.initializer}
        assert old == {one.name: len(one.raw_data) for one in self.model.graph.initializer}, "weights of another engine"
        self.refitter.engine.model = self.model
        return True

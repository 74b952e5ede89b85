"""The example of a server: pictures of the right seeds in whatever batch, clear refusals, an orderly end."""

import importlib.util
import io
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

import sanac

PLACE = Path(__file__).parents[2] / "examples" / "serve.py"


@pytest.fixture(scope="module")
def serve() -> ModuleType:
    spec = importlib.util.spec_from_file_location("serve", PLACE)
    assert spec
    assert spec.loader
    module = sys.modules["serve"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def client(serve: ModuleType) -> Iterator[TestClient]:
    with TestClient(serve.make_app("sanac:tiny", "torch", 4)) as client:
        yield client


def picture(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=int)


def test_each_gets_its_own(client: TestClient) -> None:
    """Twelve at once, of four seeds and two settings: in batches, and each what the pipeline alone paints."""
    pipeline = sanac.load_pipeline("sanac:tiny", "cpu")
    pipeline.set_progress_bar_config(disable=True)

    def wanted(seed: int, steps: int) -> np.ndarray:
        generator = torch.Generator().manual_seed(seed)
        return np.asarray(pipeline("a red circle", generator=generator, num_inference_steps=steps).images[0], dtype=int)

    asked = [(seed, steps) for seed in range(4) for steps in (2, 3, 2)]
    with ThreadPoolExecutor(12) as pool:

        def ask(pair: tuple[int, int]) -> bytes:
            answer = client.post("/pictures", json={"prompt": "a red circle", "seed": pair[0], "steps": pair[1]})
            assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
            return answer.content

        found = list(pool.map(ask, asked))
    for pair, data in zip(asked, found, strict=True):
        assert np.abs(picture(data) - wanted(*pair)).max() <= 2, "but for rounding, which batches do differently"
    assert max(client.get("/health").json()["batches"]) > 1, "none was put together with another"


@pytest.mark.parametrize(
    "wrong", [{"prompt": ""}, {"prompt": "a", "steps": 0}, {"seed": 1}, {"prompt": "a", "seed": -1}]
)
def test_what_makes_no_sense(client: TestClient, wrong: dict[str, object]) -> None:
    assert client.post("/pictures", json=wrong).status_code == 422


def test_a_failure_is_of_its_request_alone(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    batcher = client.app.state.batcher
    with monkeypatch.context() as patch:
        for error in (torch.OutOfMemoryError("out of memory"), ValueError("out of range")):

            def full(*_: object, error: Exception = error, **__: object) -> None:
                raise error

            patch.setattr(batcher, "pipeline", full)
            answer = client.post("/pictures", json={"prompt": "a", "steps": 1})
            assert (answer.status_code, "out of" in answer.text) == (500, True)
    gone = sys.modules["serve"].Job(sys.modules["serve"].Request(prompt="a", steps=1))
    gone.picture.cancel()
    batcher.waiting.put(gone)
    assert client.post("/pictures", json={"prompt": "a", "steps": 1}).status_code == 200


def test_too_many(serve: ModuleType) -> None:
    app = serve.make_app("sanac:tiny", "torch", 1)
    client = TestClient(app)
    app.state.batcher = serve.Batcher(None, 1)  # never started: nothing is taken from its queue
    for _ in range(serve.MOST_WAITING):
        app.state.batcher.waiting.put_nowait(serve.Job(serve.Request(prompt="a")))
    answer = client.post("/pictures", json={"prompt": "a"})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")

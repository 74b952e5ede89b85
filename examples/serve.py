"""A small picture server: loads once, warms up, puts requests that come together into one batch.

    pip install 'sanac[cpu]' fastapi uvicorn
    SANAC_MODEL=./exported SANAC_BACKEND=onnx uvicorn --app-dir examples serve:app
    curl localhost:8000/pictures -d '{"prompt": "a red circle", "seed": 7}' -H 'content-type: application/json' -o a.png

One worker process per GPU; on a processor one process. Batching is for throughput: a request waits MOST_WAIT seconds at
most for others. For latency set SANAC_BATCH=1.
"""

import asyncio
import io
import os
import queue
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from sanac.core.threads import configure_threads

configure_threads()  # before torch is imported

import torch  # noqa: E402
from fastapi import FastAPI, HTTPException, Response  # noqa: E402
from pydantic import BaseModel, Field  # noqa: E402

import sanac  # noqa: E402

MOST_WAIT = 0.02  # seconds that the first of a batch waits for others
MOST_WAITING = 64  # requests; one more gets 503


class Request(BaseModel):
    """What a client asks for."""

    prompt: str = Field(min_length=1, max_length=2000)
    seed: int = Field(default=0, ge=0, lt=2**63)
    steps: int = Field(default=20, ge=1, le=100)
    guidance: float = Field(default=4.5, ge=0, le=20)


@dataclass
class Job:
    """A request, and where its picture goes."""

    request: Request
    picture: "Future[bytes]" = field(default_factory=Future)

    @property
    def settings(self) -> tuple[int, float]:
        """Only requests that agree in these can be generated together."""
        return self.request.steps, self.request.guidance


class Batcher:
    """One thread that owns the pipeline and generates what is queued, in batches where the settings agree."""

    def __init__(self, pipeline: Any, batch: int) -> None:
        self.pipeline, self.batch = pipeline, batch
        self.sprint = type(pipeline).__name__ == "SanaSprintPipeline"
        self.waiting: queue.Queue[Job | None] = queue.Queue(MOST_WAITING)
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.batches: list[int] = []  # sizes of the last batches

    def start(self) -> None:
        """Warm up every batch size, so that memory and kernels are ready before the first request."""
        for count in range(1, self.batch + 1):
            jobs = [Job(Request(prompt="warm", steps=1)) for _ in range(count)]
            self._paint(jobs)
            jobs[0].picture.result()  # fail at the start if it fails at all
        self.batches.clear()
        self.thread.start()

    def stop(self) -> None:
        """Generate what is queued, then end."""
        self.waiting.put(None)
        self.thread.join()

    def _work(self) -> None:
        left: Job | None = None
        while (first := left or self.waiting.get()) is not None:
            jobs, left, end = [first], None, time.monotonic() + MOST_WAIT
            while len(jobs) < self.batch and left is None:
                try:
                    job = self.waiting.get(timeout=max(0.0, end - time.monotonic()))
                except queue.Empty:
                    break
                if job is None:
                    self._paint(jobs)
                    return
                if job.settings == first.settings:
                    jobs.append(job)
                else:
                    left = job  # begins the next batch
            self._paint(jobs)

    def _paint(self, jobs: list[Job]) -> None:
        jobs = [job for job in jobs if job.picture.set_running_or_notify_cancel()]  # some clients went away
        if not jobs:
            return
        steps, guidance = jobs[0].settings
        seeds = [torch.Generator().manual_seed(job.request.seed) for job in jobs]
        prompts = [job.request.prompt for job in jobs]
        how: dict[str, Any] = {"num_inference_steps": steps, "guidance_scale": guidance}
        if self.sprint and steps != 2:
            how["intermediate_timesteps"] = None
        try:
            found = self.pipeline(prompts, generator=seeds, **how).images
        except Exception as error:  # noqa: BLE001 (it fails this batch only; the thread continues)
            for job in jobs:
                job.picture.set_exception(error)
            return
        self.batches = [*self.batches[-99:], len(jobs)]
        for job, picture in zip(jobs, found, strict=True):
            file = io.BytesIO()
            picture.save(file, format="PNG")
            job.picture.set_result(file.getvalue())


def make_app(model: str, backend: str, batch: int) -> FastAPI:
    """The server of one model."""

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        pipeline = sanac.load_pipeline(model, backend=backend)
        pipeline.set_progress_bar_config(disable=True)
        app.state.batcher = Batcher(pipeline, batch)
        app.state.batcher.start()
        yield
        app.state.batcher.stop()

    app = FastAPI(title="sanac", lifespan=life)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Answers when the model is loaded and warm."""
        batcher = app.state.batcher
        return {"waiting": batcher.waiting.qsize(), "batches": batcher.batches}

    @app.post("/pictures", response_class=Response)
    async def pictures(request: Request) -> Response:
        """A PNG."""
        job = Job(request)
        try:
            app.state.batcher.waiting.put_nowait(job)
        except queue.Full:
            raise HTTPException(503, "too many are waiting", {"Retry-After": "1"}) from None
        try:
            picture = await asyncio.wrap_future(job.picture)
        except Exception as error:
            raise HTTPException(500, str(error)) from error
        return Response(picture, media_type="image/png")

    return app


app = make_app(
    os.environ.get("SANAC_MODEL", "sanac:tiny"),
    os.environ.get("SANAC_BACKEND", "torch"),
    int(os.environ.get("SANAC_BATCH", "4")),
)

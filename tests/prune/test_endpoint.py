"""Where trajectories end: the pipeline's own way with the blocks deleted, and nothing for the whole model."""

from pathlib import Path

import pytest
import torch

from sanac.core.execute import Writing, execute
from sanac.core.locate import locate
from sanac.core.model import open_model
from sanac.core.talk import SILENCE
from sanac.nn.captions import encode
from sanac.nn.surroundings import sampler
from sanac.nn.trajectory import Sampling, sample, starting_noise
from sanac.nn.weights import Blocks
from sanac.prune.calibrate import Calibration, calibration
from sanac.prune.endpoint import STEPS, Endpoints
from sanac.prune.manual import decide_keep
from sanac.prune.measure import Wanted

CPU, CHOICES = torch.device("cpu"), [(0, 2, 4), (0, 1, 2, 3, 4, 5), (1, 5)]


def ending(job: Calibration, folder: Path) -> torch.Tensor:
    """Sampled as pictures are, by the model in a folder."""
    model = open_model(locate(str(folder)))
    captions = encode(job.model, job.inputs.prompts, CPU)
    how = Sampling(STEPS, job.sampling.guidance, job.sampling.seed, job.sampling.side)
    blocks = Blocks(model, CPU, torch.float32)
    steps = sample(blocks, sampler(job.scheduler), captions, how, lambda *_: None, model.transformer.config)
    return [latents for _, latents in steps][-1]


def test_errors_are_those_of_what_is_sampled(pipeline: Path, tmp_path: Path) -> None:
    job = calibration(open_model(locate(str(pipeline))), Wanted(num_prompts=3, timesteps=4), every=4)
    with torch.no_grad():
        found = Endpoints(job.whole(), job.scheduler, job.noise(3))
        whole = ending(job, pipeline)
        assert torch.allclose(found.whole, whole, atol=1e-4)
        for together in (1, 3):
            errors = found.errors(CHOICES, together)
            assert errors[CHOICES[1]] == pytest.approx(0, abs=1e-9)
            for kept in (CHOICES[0], CHOICES[2]):
                out = tmp_path / f"{together}-{len(kept)}"
                execute(decide_keep(job.model, ",".join(map(str, kept)), Writing()), out, SILENCE)
                apart = (ending(job, out) - whole).flatten(1).square().sum(1) / whole.flatten(1).square().sum(1)
                assert errors[kept] == pytest.approx(float(apart.mean()), rel=1e-3)
                assert errors[kept] > 1e-6
    assert torch.equal(job.noise(3), starting_noise(3, 16, job.sampling))

"""What a step shows the transformer: states on the line, timesteps up to 1000, captions with their batch."""

import torch

from sanac.train.flow_matching import Times
from sanac.train.loop import generator_for
from tests.finetune import small


def _shown(**options) -> tuple[list, dict, small.Few]:
    data = small.Few()
    task = small.task(data=data, **options)
    seen: list = []
    task.transformer.register_forward_pre_hook(
        lambda _module, args, kwargs: seen.append((args, kwargs)), with_kwargs=True
    )
    task.loss(generator_for(0, 0))
    ((args, kwargs),) = seen
    return list(args), kwargs, data


def test_timesteps_count_to_a_thousand() -> None:
    (_, _, timestep), _, _ = _shown(times=Times(shift=1e6))
    assert timestep.min() > 999
    (_, _, timestep), _, _ = _shown(times=Times(shift=1e-6))
    assert timestep.max() < 1


def test_states_lie_on_the_line_between_data_and_noise() -> None:
    (states, _, timestep), _, data = _shown()
    levels = (timestep / 1000).view(-1, 1, 1, 1)
    picked = torch.randint(16, (8,), generator=generator_for(0, 0))
    noise = (states - (1 - levels) * data.latents[picked]) / levels
    assert abs(float(noise.mean())) < 0.1
    assert abs(float(noise.std()) - 1) < 0.1


def test_captions_go_with_their_latents() -> None:
    encoder = small.Encoder()
    (_, embeddings, _), kwargs, data = _shown(encode=encoder, caption_dropout=0.0)
    assert encoder.seen == data.asked
    assert torch.equal(embeddings, small.Encoder()(data.asked[0])[0])
    assert torch.equal(kwargs["encoder_attention_mask"], torch.ones(8, 1))

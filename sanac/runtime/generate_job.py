"""`sanac generate`: images from prompts."""

from sanac.core.context import Context, Outcome
from sanac.core.units import parse_size
from sanac.runtime.generate import generate, model_metadata, plan_pictures, refuse_replacing
from sanac.runtime.image_files import made_folder
from sanac.runtime.pipeline import open_generator, sampling_of
from sanac.runtime.settings import GenerateSettings


def run(word: str, settings: GenerateSettings, context: Context) -> Outcome:
    """Generate every prompt, and write the images and a sheet of them."""
    opened = context.open(word)
    size = parse_size(settings.size) if settings.size else None
    prompts, reporter = settings.prompts, context.reporter
    how = {"size": size, "batch": settings.batch, "tile": settings.tile}
    typed = "guidance" in settings.typed
    sampling = sampling_of(opened, settings.steps, settings.guidance, reporter, guidance_typed=typed, **how)
    shared = model_metadata(opened, sampling, settings.backend)
    planned = plan_pictures(prompts, settings.n, settings.seed, settings.out, shared)
    refuse_replacing(planned)
    with made_folder(settings.out):
        generator = open_generator(opened, settings.device, settings.backend, reporter)
        for warning in generator.device_warnings():
            reporter.warn(warning)
        if unknown := generator.unknown_words(prompts):
            reporter.warn(f"words that are not in the model's vocabulary, and have no effect: {', '.join(unknown)}")
        files = generate(generator, planned, sampling, settings.out, reporter)
    data = {"pictures": [str(path) for path in files], "device": generator.device, "backend": settings.backend}
    return Outcome("ok", data, settings.out, tuple(files), lambda: map(str, files))

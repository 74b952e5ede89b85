"""How many blocks, sampler steps and guided steps a model needs at each noise level."""

"""What a generator learns from judged samples, a loss per file. All compare errors of a policy with a reference's.

The error L of a sample is what training minimizes anyway: the mean squared error of the velocity at a noised sample, or
the mean -log p of masked codes. Samples of a prompt share noise level, noise and mask, so that their errors differ by
the samples alone.
"""

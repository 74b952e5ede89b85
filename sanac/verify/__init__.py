"""What a model is worth after surgery: evaluation suites, parity, benchmarks, gates."""

"""Checks of compressed models: evaluation suites, parity, benchmarks, rank correlation and gates."""

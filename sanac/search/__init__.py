"""Strategies that spend more computation on a prompt: several candidates, and a verifier that chooses."""

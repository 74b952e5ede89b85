"""Recipes: one file says what to do, one command does it."""

"""Folders that a stranger made: nothing outside them is touched, no code in them runs, nothing is lost."""

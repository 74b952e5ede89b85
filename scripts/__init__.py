"""Commands for those who build sanac."""

"""A generator of image tokens: Show-o's masked prediction, beside SANA."""

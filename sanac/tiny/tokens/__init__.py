"""The bundled model sanac:tokens: a small Show-o, and its training."""

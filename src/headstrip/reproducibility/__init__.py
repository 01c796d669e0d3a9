"""Seeds and deterministic algorithms."""

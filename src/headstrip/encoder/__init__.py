"""The encoder: its embeddings, predictors, fingerprint and manifest."""

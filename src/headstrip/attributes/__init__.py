"""Attributes of images: labels, predictors fitted to embeddings, and what they are worth."""

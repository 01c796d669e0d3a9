"""Attributes of images: read labels, fit predictors to embeddings, and measure the predictors."""

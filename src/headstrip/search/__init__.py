"""Nearest neighbours in a file of embeddings, and the page that shows them."""

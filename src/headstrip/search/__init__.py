"""Search for nearest neighbours in an embeddings file, and show them on an HTML page."""

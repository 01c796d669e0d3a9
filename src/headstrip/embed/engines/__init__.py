"""Engines: what runs the network of an encoder over batches of pixels, one file for each."""

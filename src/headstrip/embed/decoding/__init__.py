"""Decoding images in processes beside the network."""

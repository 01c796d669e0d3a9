"""Decoding images in worker processes while the network runs."""

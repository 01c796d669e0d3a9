"""Seeding, deterministic algorithms, and datasets that are random in a repeatable way."""

"""Tools for plugin authors: create a project, write catalogs, run a smoke test."""

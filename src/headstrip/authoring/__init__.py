"""Tools for authors of plugins: a new project, catalogs, a smoke test."""

"""Two distributions provide a plugin with this name."""

from headstrip import hookimpl


@hookimpl
def build_model(spec, options):
    raise NotImplementedError

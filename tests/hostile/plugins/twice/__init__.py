"""Two distributions bring a plugin of this name."""

from headstrip import hookimpl


@hookimpl
def build_model(spec, options):
    raise NotImplementedError

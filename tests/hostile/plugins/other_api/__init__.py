"""It was built for another version of the contract."""

from headstrip import hookimpl

API_VERSION = 99


@hookimpl
def build_model(spec, options):
    raise NotImplementedError

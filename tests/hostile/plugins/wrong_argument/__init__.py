"""One of its hooks takes an argument that is not in the contract."""

from headstrip import hookimpl


@hookimpl
def build_model(spec, pretrained):
    raise NotImplementedError

"""It has no hook at all."""


class Plugin:
    def build(self, spec, options):
        raise NotImplementedError


plugin = Plugin()

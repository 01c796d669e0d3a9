"""Which backbones exist, which plugin owns each, and how a name is resolved."""

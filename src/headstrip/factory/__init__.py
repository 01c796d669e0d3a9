"""Build an encoder from a name: choose the weights, build the network, take its head off."""

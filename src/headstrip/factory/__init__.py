"""From a name to an encoder: which weights, how the network is built, where its head is."""

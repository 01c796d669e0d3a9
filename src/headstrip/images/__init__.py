"""From a picture to a tensor: decoding, colours, preprocessing."""

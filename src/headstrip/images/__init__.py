"""Turn an image into a tensor: decoding, colours, preprocessing."""

"""Work on torch modules: heads, widths, building without memory, state dicts."""

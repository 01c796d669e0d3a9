"""Drop-in replacements for functions of other projects, and their files."""

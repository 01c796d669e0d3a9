"""Drop-in replacements for code that others have."""

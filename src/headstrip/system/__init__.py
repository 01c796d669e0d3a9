"""Services of the operating system: files, memory, signals, and explanations of its errors."""

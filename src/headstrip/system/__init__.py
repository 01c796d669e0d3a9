"""What headstrip asks of the operating system: files, memory, signals, and words for its errors."""

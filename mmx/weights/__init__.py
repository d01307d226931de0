"""Cards, and checkpoints in and out: found, read, converted, written."""

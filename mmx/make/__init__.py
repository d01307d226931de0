"""New models from those that are there: composed, extended, trimmed, converted."""

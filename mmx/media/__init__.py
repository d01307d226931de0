"""Sound from files, pipes and arrays, and its features."""

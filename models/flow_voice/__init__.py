"""Our own voice: an acoustic model by flow matching, and its vocoder."""

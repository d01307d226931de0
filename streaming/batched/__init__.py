"""Many sessions in one batch, with buffers of fixed shapes."""

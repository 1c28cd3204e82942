"""Training outputs read as named lazy tensors; one module a format."""

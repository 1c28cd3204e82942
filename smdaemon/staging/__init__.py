"""Tensors of a trainer, wherever they live, as bytes in host memory: what the trainer's side of a handoff does with them."""

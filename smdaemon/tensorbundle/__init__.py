"""TensorFlow's checkpoint format V2 (the tensor bundle), written and read without TensorFlow."""

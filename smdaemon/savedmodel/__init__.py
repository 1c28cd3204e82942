"""The SavedModel format, written and read without TensorFlow."""

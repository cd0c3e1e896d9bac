"""A TensorFlow function becomes a file, in a child process."""

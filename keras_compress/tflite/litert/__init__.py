"""A file computes, in LiteRT; TensorFlow is not needed."""

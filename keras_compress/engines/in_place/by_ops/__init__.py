"""What the placement table does not know, quantized inside by its TensorFlow ops."""

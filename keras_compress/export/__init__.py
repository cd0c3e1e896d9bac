"""From a network as it answers now to a verified `.tflite` at its path."""

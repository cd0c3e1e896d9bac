"""What a file holds; LiteRT is not needed."""

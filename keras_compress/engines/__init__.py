"""What changes a model: in place, or through tfmot's wrappers."""

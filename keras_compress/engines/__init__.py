"""What changes a model: one engine that works in place."""

"""The engine that trains the user's own model object in place, on both Keras."""

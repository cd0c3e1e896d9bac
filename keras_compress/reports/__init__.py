"""What calls return: data, text and plain dict; no framework is imported."""

"""Networks and files side by side on the same data."""

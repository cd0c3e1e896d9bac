"""The engine for models in tfmot's wrappers: its masks and its quantizers, driven by our run.

tfmot is loaded by `library.py` alone, and only for such models.
"""

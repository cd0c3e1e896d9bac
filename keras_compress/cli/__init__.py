"""The command line: `keras-compress convert | inspect | compare | benchmark | ranges`."""

from keras_compress.cli.entry import main

__all__ = ["main"]

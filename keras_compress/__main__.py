"""`python -m keras_compress` is `keras-compress`."""

import sys

from keras_compress.cli import main

sys.exit(main())

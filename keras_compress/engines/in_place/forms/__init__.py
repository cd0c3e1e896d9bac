"""Other ways to compute what a layer computes, with room for the quantizers that its integer kernel
needs: by kind of layer, and `call`, what a form is given.

Each gives the layer's own numbers but for the rounding. `exporting` forms only choose other
TensorFlow ops for the file.
"""

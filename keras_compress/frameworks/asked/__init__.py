"""What is asked of a Keras, a file for each thing that it is asked about."""

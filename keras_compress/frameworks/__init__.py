"""The two Keras behind one interface; everything private to one of them is here."""

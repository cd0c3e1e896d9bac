"""What the names of a file's tensors tell: written where a network is traced and where a file is
renamed, read where two files are compared. Without a framework.
"""

CALL = "call_"
"""What stands in a scope before the number of a layer's later call."""

ROUNDING = ("FakeQuant", "unstack")
"""How the names of the nodes begin that only round what a layer computed."""

INNER = "_inner"
"""Behind the name of a tensor whose own name an end of the file bears."""

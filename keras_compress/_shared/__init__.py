"""What every package may use: argument errors, whole files, tables, kept children. Not public."""

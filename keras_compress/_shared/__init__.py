"""What every package may use: argument errors, whole files, printed tables. Nothing is public."""

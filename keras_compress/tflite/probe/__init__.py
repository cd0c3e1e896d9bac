"""Files from elsewhere are tried in a process of their own first."""

"""Channels: which of them go together, which are dropped, and the network without them."""

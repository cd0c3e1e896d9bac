"""Inside the user's `fit`: the callback, its one state machine, and the ways in beside it."""

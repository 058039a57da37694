"""Our system beside others on one machine: same model, same clients, training left out on every side."""

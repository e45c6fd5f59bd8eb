"""The command line, the terminal, signals. Never imports JAX."""

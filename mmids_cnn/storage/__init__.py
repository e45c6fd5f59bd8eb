"""Files that are whole or absent, checkpoints, digests. Knows neither a network nor a run."""

"""A run: one experiment trained in one folder, safe to interrupt, and what is read from the folder later."""

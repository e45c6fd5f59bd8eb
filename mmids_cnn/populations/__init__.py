"""Several experiments trained as one program, here or on a cluster."""

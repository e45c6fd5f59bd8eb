"""What JAX computes on: a CPU's cores, compiled programs, and how work is spread over devices."""

"""mmids_cnn: train a small convolutional network in JAX, fast, reproducibly, from one configuration.

Importing the package imports nothing else; each module names what it needs.
"""

__version__ = "0.1.0"

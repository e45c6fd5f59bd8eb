"""Data sets in IDX form (MNIST's): the archives of MNIST itself, a reader, and a TFDS builder."""

"""Which folders are packages; all else about the project is in pyproject.toml."""

from setuptools import find_packages, setup

# Wherever the package is installed, the experiment files are there with it: --config=base.
SHIPPED = "mmids_cnn.shipped.experiments"

setup(packages=[*find_packages(include=["mmids_cnn*"]), SHIPPED], package_dir={SHIPPED: "experiments"})

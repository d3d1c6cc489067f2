"""The version of the package. It is part of the key of the kernel cache."""

__version__ = "0.2.0"

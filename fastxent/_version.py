"""The version, in one place; part of the compile cache's key."""

__version__ = "0.1.0"

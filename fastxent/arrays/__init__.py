"""Families of arrays: a module for each library, imported at the first call with its arrays."""

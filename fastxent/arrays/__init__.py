"""Families of arrays: one file each, imported when its first array arrives."""

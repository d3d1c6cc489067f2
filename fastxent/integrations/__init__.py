"""Losses, objectives and estimators for other libraries: one module or package for each."""

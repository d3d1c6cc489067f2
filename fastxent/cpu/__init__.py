"""The CPU backend. Importing this package imports no Numba; `backend` does."""

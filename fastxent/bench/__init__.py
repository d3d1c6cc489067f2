"""Benchmarks of fastxent and other implementations of cross-entropy on a CPU."""

"""Benchmarks of fastxent beside other implementations of cross-entropy on a CPU."""

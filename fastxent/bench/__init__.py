"""The benchmarks: fastxent raced against what else computes a cross-entropy on a CPU."""

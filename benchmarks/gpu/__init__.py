"""The GPU's benchmarks: minigrad and PyTorch on the same work, each in a process of its own."""

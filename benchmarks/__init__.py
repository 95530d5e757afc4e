"""Benchmarks: minigrad and its peers on the same work, each in a process of its own."""

FAMILIES = (
    "overhead",
    "chain",
    "mlp",
    "trainer",
    "activations",
    "dropout",
    "cross_entropy",
    "matmul",
    "attention",
    "embedding",
    "convolution",
    "recurrent",
    "optimizer",
    "gpt",
    "decode",
    "quantized",
    "structured",
    "loader",
    "sparse",
    "imports",
)

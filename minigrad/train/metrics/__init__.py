"""Metrics: what is measured over batches."""

from minigrad.train.metrics.metric import FunctionMetric, Metric, get, known, register

__all__ = ["FunctionMetric", "Metric", "get", "known", "register"]

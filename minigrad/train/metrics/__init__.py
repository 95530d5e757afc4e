"""Metrics: what is measured over batches."""

from minigrad.train.metrics.accuracy import Accuracy, BinaryAccuracy, TopKAccuracy
from minigrad.train.metrics.auc import AUC
from minigrad.train.metrics.confusion import ConfusionMatrix
from minigrad.train.metrics.f_score import F1, FBeta, Precision, Recall
from minigrad.train.metrics.metric import FunctionMetric, Metric, get, known, register, register_family
from minigrad.train.metrics.perplexity import Perplexity
from minigrad.train.metrics.regression import MAE, MSE, R2, RMSE, Pearson

__all__ = [
    "AUC", "F1", "MAE", "MSE", "R2", "RMSE", "Accuracy", "BinaryAccuracy", "ConfusionMatrix", "FBeta", "FunctionMetric",
    "Metric", "Pearson", "Perplexity", "Precision", "Recall", "TopKAccuracy", "get", "known", "register",
    "register_family",
]  # fmt: skip

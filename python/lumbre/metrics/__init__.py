"""The metrics that come with lumbre."""

from lumbre.metrics.classification import Accuracy, BinaryAccuracy, BinaryAccuracyWithLogits
from lumbre.metrics.regression import MAE, MSE, RMSE

__all__ = ["MAE", "MSE", "RMSE", "Accuracy", "BinaryAccuracy", "BinaryAccuracyWithLogits"]

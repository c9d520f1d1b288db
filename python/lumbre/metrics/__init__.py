"""The metrics that come with lumbre."""

from lumbre.metrics.accuracy import Accuracy, BinaryAccuracy, BinaryAccuracyWithLogits
from lumbre.metrics.auroc import BinaryAUROC, MulticlassAUROC
from lumbre.metrics.confusion import F1, ConfusionMatrix, Precision, Recall
from lumbre.metrics.mean import Mean
from lumbre.metrics.regression import MAE, MSE, R2, RMSE
from lumbre.metrics.top_k import TopKAccuracy

__all__ = [
    "F1",
    "MAE",
    "MSE",
    "R2",
    "RMSE",
    "Accuracy",
    "BinaryAUROC",
    "BinaryAccuracy",
    "BinaryAccuracyWithLogits",
    "ConfusionMatrix",
    "Mean",
    "MulticlassAUROC",
    "Precision",
    "Recall",
    "TopKAccuracy",
]

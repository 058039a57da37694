"""Training on the device: a `Trainer` takes weights and batches and gives weights and sums back."""

from edge_client.training.litert import LiteRTTrainer
from edge_client.training.trainer import Trainer, TrainingError, TrainSums

__all__ = ["LiteRTTrainer", "TrainSums", "Trainer", "TrainingError"]

"""Training defenses as ART trainers, on one training loop."""

from qadv.trainers.defensive_quantization import DefensiveQuantTrainer
from qadv.trainers.feedback import FeedbackTrainer

__all__ = ["DefensiveQuantTrainer", "FeedbackTrainer"]

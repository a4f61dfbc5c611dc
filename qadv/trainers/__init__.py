"""Training defenses as ART trainers, on one training loop."""

from qadv.trainers.defensive_quantization import DefensiveQuantTrainer

__all__ = ["DefensiveQuantTrainer"]

"""Training defenses as ART trainers, on one training loop."""

from qadv.trainers.adversarial import AdversarialQuantTrainer
from qadv.trainers.adversary import Adversary
from qadv.trainers.defensive_quantization import DefensiveQuantTrainer
from qadv.trainers.early_stop import EarlyStop
from qadv.trainers.error_silenced import ErrorSilencedTrainer
from qadv.trainers.feedback import FeedbackTrainer
from qadv.trainers.loop_trainer import LoopTrainer
from qadv.trainers.network import TrainedNetwork
from qadv.trainers.objective import Objective
from qadv.trainers.weight_decay import parameter_groups

__all__ = [
    "AdversarialQuantTrainer",
    "Adversary",
    "DefensiveQuantTrainer",
    "EarlyStop",
    "ErrorSilencedTrainer",
    "FeedbackTrainer",
    "LoopTrainer",
    "Objective",
    "TrainedNetwork",
    "parameter_groups",
]

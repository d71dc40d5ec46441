"""Score distillation: one guidance, and every published loss as one function of one signature."""

from common.distillation.losses import Critic, Distillation, LossName, distillation_gradient

__all__ = ["Critic", "Distillation", "LossName", "distillation_gradient"]

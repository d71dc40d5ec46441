"""The coarse stage: a hash-grid NeRF trained by score distillation at 64 px."""

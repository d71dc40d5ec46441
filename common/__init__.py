"""What both stages speak: cameras, prompts, schedules, distillation, shading, meshes, runs."""

"""Fine-tuning: distillation from a teacher, training data (own, synthetic, shapes world), LoRA, teacher cache."""

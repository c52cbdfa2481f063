"""Baselines that read texts with a small encoder: fine-tuned, or as it is with a logistic regression on its vectors."""

"""Layers whose products or gradients are computed our way: attention, LoRA and the head with its cross-entropy."""

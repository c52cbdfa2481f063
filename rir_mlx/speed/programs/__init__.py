"""The programs that are measured, each as its users call it: ours, PEFT by hand, TRL, transformers and mlx-lm."""

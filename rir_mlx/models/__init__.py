"""Base models and adapters as folders on disk."""

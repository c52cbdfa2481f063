"""Weights tensor by tensor: read, merged with an adapter, and written as a folder in Hugging Face format."""

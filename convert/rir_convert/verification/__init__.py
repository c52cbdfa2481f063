"""Whether a written folder is the model that was trained."""

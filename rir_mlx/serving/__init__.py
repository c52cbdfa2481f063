"""A trained classifier over HTTP: decisions with their reasons, streamed if wanted.

Knows classification and HTTP; knows no stage and no evaluation. `worker.py` is the only user of the model."""

"""The recipe: every key with its default and its help, read from YAML and overrides."""

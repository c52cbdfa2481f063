"""A reasoning for every labelled row: written by an engine, filtered, and summarised."""

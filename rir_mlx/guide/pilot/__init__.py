"""A short trial of a recipe on few rows: what the whole run will probably say, before its hours are spent."""

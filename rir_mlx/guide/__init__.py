"""What a user needs around the stages: a look at a table, a first recipe, the machine, the models and runs on it."""

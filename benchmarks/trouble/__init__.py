"""What is left of a run when something goes wrong in the middle of a stage."""

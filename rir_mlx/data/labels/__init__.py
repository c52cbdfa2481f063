"""What a cell says of its row's label: one, several at once, or a distribution."""

"""The audit of labelled rows before training: what would be refused, what would spoil the measurement, what is notable.

Knows rows, and how many tokens a text has; no model or framework. Two texts count as the same if `same_text.normalised`
says so.
"""

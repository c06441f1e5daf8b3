"""Damaged inputs, a module a kind; each has cases(folder) -> an iterable of Case."""

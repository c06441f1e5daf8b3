"""Settings with types: a frozen dataclass for each group of conf/, its values checked as it is
made.

No torch here: what can be wrong with a command line is found before anything heavy is imported.
"""

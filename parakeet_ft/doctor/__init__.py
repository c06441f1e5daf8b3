"""Whether this machine can run parakeet-ft, and what cures it where it cannot.

facts.py      what is asked of the machine; what may crash is asked in a process of its own
findings.py   facts -> lines: ok, warning or wrong, each with the command that cures it
"""

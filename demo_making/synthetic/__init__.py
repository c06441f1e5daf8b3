"""Speech from Debian's synthesizers: what the bundled `tiny` base and the demo domain are made of.

general_text.py, atc_text.py   sentences from grammars
voices.py                      espeak-ng, flite, festival -> waveform
channel.py                     noise, band limits, radio, pure
"""

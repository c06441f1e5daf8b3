"""How good transcripts are: error rates, normalisation, breakdowns, terms. Pure: nothing here
decodes.
"""

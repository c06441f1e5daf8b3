"""Evaluation: audio to texts (transcribe, decoding, language_model, recognizer), texts to figures
(wer, normalization, breakdown, terms; pure), figures to files (report, comparison), and what
evaluate.py is asked for (request, benchmark, hypotheses).
"""

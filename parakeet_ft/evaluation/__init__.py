"""Evaluation: transcribe.py (audio -> texts), wer.py (texts -> figures, pure), report.py (figures -> files)."""

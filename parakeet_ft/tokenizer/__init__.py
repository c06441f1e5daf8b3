"""SentencePiece models: train, read, extend."""

"""Speech to text: decoding, long recordings, captions."""

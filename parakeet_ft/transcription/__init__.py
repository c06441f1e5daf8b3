"""Speech to text, by one engine: decode.py.

recordings.py      what there is to transcribe
long_audio.py      recordings of any length -> segments; segmentation.py: by voice or transcript
segments.py        what goes through a model at once; silence has no words
decode.py          segments and utterances -> transcripts
decoding.py        how a model decodes; language_model.py, ngram.py
nemo_words.py      NeMo's hypotheses -> words; word_times.py: when they begin and end
words.py           words and transcripts
captions.py        transcripts as text, subtitles, CTM, JSON
folder.py          a folder of transcripts that a killed run continues
"""

"""Audio and text -> manifests. No torch and no NeMo in here: a script says what is wrong with its
input in a fraction of a second.

    corpora/       raw layouts -> utterances
    prepare.py     the stages in order: audio, text, filters, splits, manifests
    manifest.py    the format
    ledger.py      what is done already; parallel.py: on which machines
    audio.py       probe, decode, resample, measure, write
    audio_file.py  what audio is read from; libsndfile.py, ffmpeg.py: by which decoder
    text.py, filters.py, splits.py, leaks.py, summary.py: pure, one stage each
    audit.py       the quick look before training
    report.py      report.html; command.py: the flags of data_prep/
    overlap.py, voices.py: what is scored and trained on too; whose voices choose
    alignment.py   a transcript to its recording's frames
    shards.py, non_speech.py: tar archives; noise and silence as utterances
"""

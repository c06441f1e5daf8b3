"""A transcript with word times as text, subtitles (SRT, WebVTT), CTM or JSON. Pure: transcripts in,
strings out.
"""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Callable, Sequence

from parakeet_ft.transcription.word_times import METHOD
from parakeet_ft.transcription.words import Transcript, Word

# Two lines of 42 characters and seven seconds are what guidelines for subtitles agree on.
LINE_CHARS = 42
CUE_LINES = 2
CUE_SECONDS = 7.0
# A pause of this length ends a cue.
PAUSE_SECONDS = 1.0
SENTENCE_ENDS = (".", "?", "!", "。", "？", "！", "؟", "।")


@dataclasses.dataclass(frozen=True)
class Cue:
    """One subtitle; times in seconds."""

    text: str
    begin: float
    end: float


def cues(words: Sequence[Word]) -> list[Cue]:
    """Cues that end at sentence ends, at pauses, and before they grow too long to read; they do not
    overlap.
    """
    groups: list[list[Word]] = []
    for word in words:
        if groups and _continues(groups[-1], word):
            groups[-1].append(word)
        else:
            groups.append([word])
    found = []
    for index, group in enumerate(groups):
        # Short words are shown for half a second, if the next cue leaves the time.
        end = max(group[-1].end, group[0].begin + 0.5)
        if index + 1 < len(groups):
            end = min(end, groups[index + 1][0].begin)
        found.append(
            Cue(
                " ".join(word.text for word in group),
                group[0].begin,
                max(end, group[0].begin + 0.001),
            )
        )
    return found


def _continues(group: Sequence[Word], word: Word) -> bool:
    """Whether a word belongs to the cue of the words before it."""
    text = " ".join([w.text for w in group] + [word.text])
    return (
        not group[-1].text.endswith(SENTENCE_ENDS)
        and word.begin - group[-1].end < PAUSE_SECONDS
        and word.end - group[0].begin <= CUE_SECONDS
        and len(textwrap.wrap(text, LINE_CHARS)) <= CUE_LINES
    )


def to_txt(transcript: Transcript, *, name: str, path: str) -> str:
    """The text on one line, which is empty if nothing was said."""
    return transcript.text + "\n"


def to_srt(transcript: Transcript, *, name: str, path: str) -> str:
    """SubRip."""
    return _subtitles(cues(transcript.words), kind="srt")


def to_vtt(transcript: Transcript, *, name: str, path: str) -> str:
    """WebVTT (https://www.w3.org/TR/webvtt1/)."""
    return _subtitles(cues(transcript.words), kind="vtt", escape=_escape_vtt)


def to_ctm(transcript: Transcript, *, name: str, path: str) -> str:
    """NIST CTM: recording, channel, begin, duration, word. Blanks in a recording's name become
    underscores, as fields end at blanks.
    """
    recording = "_".join(name.split())
    return "".join(
        f"{recording} 1 {word.begin:.3f} {max(0.0, round(word.end, 3) - round(word.begin, 3)):.3f} "
        f"{'_'.join(word.text.split())}\n"
        for word in transcript.words
        if word.text.strip()
    )


def to_json(transcript: Transcript, *, name: str, path: str) -> str:
    """One object: audio_filepath, duration, text, words with word, start and end, as NeMo calls
    them, and how these were found.
    """
    words = [
        {"word": word.text, "start": round(word.begin, 3), "end": round(word.end, 3)}
        for word in transcript.words
    ]
    found = {
        "audio_filepath": path,
        "duration": round(transcript.duration, 4),
        "text": transcript.text,
        "words": words,
    }
    return json.dumps(found | {"word_times": METHOD}, ensure_ascii=False) + "\n"


FORMATS: dict[str, Callable[..., str]] = {
    "txt": to_txt,
    "srt": to_srt,
    "vtt": to_vtt,
    "ctm": to_ctm,
    "json": to_json,
}
# Those that need no word times.
TEXT_ONLY = frozenset(["txt"])


def _subtitles(
    found: Sequence[Cue], *, kind: str, escape: Callable[[str], str] = lambda text: text
) -> str:
    """Cues as pysubs2 writes them."""
    import pysubs2

    subtitles = pysubs2.SSAFile()
    for cue in found:
        event = pysubs2.SSAEvent(start=round(1000 * cue.begin), end=round(1000 * cue.end))
        event.plaintext = escape("\n".join(textwrap.wrap(cue.text, LINE_CHARS)) or cue.text)
        subtitles.append(event)
    # Braces are what somebody said, and no tags of SubStation Alpha.
    return subtitles.to_string(kind, keep_ssa_tags=True)


def _escape_vtt(text: str) -> str:
    """Not html.escape: WebVTT has no reference for quotation marks."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

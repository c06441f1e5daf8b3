"""Recordings of any length to transcripts with a NeMo model: how each is cut.

Short recordings go through the model in one piece, as in training. Long ones in one of three ways:
`full`, one piece with full attention, whose memory grows with the square of the length; `local`,
one piece with attention to ten seconds on either side; `chunked`, cut where silero-vad hears nobody
speak.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from parakeet_ft.data.audio import AudioError, probe, stream_audio
from parakeet_ft.data.manifest import Utterance
from parakeet_ft.errors import UserError
from parakeet_ft.memory import free_bytes
from parakeet_ft.model import parts
from parakeet_ft.transcription.recordings import Recording
from parakeet_ft.transcription.segments import Segment, segment_of
from parakeet_ft.transcription.words import Transcript, join_segments

if TYPE_CHECKING:
    from parakeet_ft.transcription.folder import TranscriptFolder

# Up to here a recording is short: one piece, with the attention that the checkpoint has.
SHORT_SECONDS = 60.0
CHUNK_SECONDS = 30.0
# Audio kept on both sides of speech: what the detector cuts off words, and the quiet that models
# were trained with.
CHUNK_PADDING_SECONDS = 0.4
# Of the memory that is free, what one recording in one piece may take.
MEMORY_SHARE = 0.5


def measure(recording: Recording) -> float:
    """Seconds of a recording, by its header. Raises AudioError if it cannot be read; 0.0 if there
    is no audio in it.
    """
    try:
        # Recordings of browsers have no length in their header.
        seconds = (
            probe(recording.path).duration
            or sum(len(block) for block in stream_audio(recording.path)) / 16000
        )
    except AudioError as error:
        if error.reason in ("zero_bytes", "no_samples"):
            return 0.0
        raise
    if recording.offset and recording.offset >= seconds:
        raise AudioError(
            "beyond_end",
            f"{recording.path} lasts {seconds:.2f} s, the utterance begins at "
            f"{recording.offset:.2f} s.",
        )
    return (
        seconds - recording.offset
        if recording.duration is None
        else min(recording.duration, seconds - recording.offset)
    )


def plan(
    model: Any,
    recording: Recording,
    seconds: float,
    *,
    long_audio: str,
    chunk_seconds: float | None = None,
) -> list[Segment]:
    """The segments of a recording, in order; none if nobody speaks. Raises AudioError if it has to
    be cut and cannot be decoded.
    """
    from parakeet_ft.model.attention import attention

    whole = recording.offset == 0 and recording.duration is None
    if not seconds:
        return []
    way = choose_way(
        seconds,
        requested=long_audio,
        free_bytes=free_bytes(parts.device(model)),
        needed_bytes=lambda kind: needed_bytes(model, seconds, kind=kind),
    )
    if way != "chunked":
        own = attention(model)["kind"]
        return [
            Segment(
                recording.path,
                recording.offset,
                seconds,
                whole,
                None if way in ("short", own) else way,
            )
        ]
    from parakeet_ft.transcription.segmentation import speech_spans

    chunk_seconds = chunk_seconds or CHUNK_SECONDS
    spans = [
        (max(begin, recording.offset), min(end, recording.offset + seconds))
        for begin, end in speech_spans(
            recording.path, max_seconds=chunk_seconds - 2 * CHUNK_PADDING_SECONDS
        )
    ]
    chunks = pack(
        [(begin, end) for begin, end in spans if begin < end],
        max_seconds=chunk_seconds,
        padding=CHUNK_PADDING_SECONDS,
        first=recording.offset,
        last=recording.offset + seconds,
    )
    return [Segment(recording.path, begin, end - begin, False) for begin, end in chunks]


def way_taken(segments: Sequence[Segment]) -> str:
    """How a planned long recording goes through the model, in words."""
    if len(segments) > 1:
        return f"cut into {len(segments)} chunks where nobody speaks"
    return (
        f"in one piece, with {segments[0].attention} attention"
        if segments[0].attention
        else "in one piece, with the checkpoint's attention"
    )


def way_lines(ways: dict[str, str]) -> list[str]:
    """For people: one line if all long recordings (name: way) go the same way, else one for
    each.
    """
    if len(set(ways.values())) == 1:
        count = (
            "the long recording goes" if len(ways) == 1 else f"all {len(ways)} long recordings go"
        )
        return [f"{count} {next(iter(ways.values()))}"]
    return [f"{name}: {way}" for name, way in ways.items()]


def choose_way(
    seconds: float, *, requested: str, free_bytes: float, needed_bytes: Callable[[str], float]
) -> str:
    """`short`, `full`, `local` or `chunked`. `auto` takes local attention where the recording fits
    in memory, else chunks.
    """
    if seconds <= SHORT_SECONDS:
        return "short"
    if requested != "auto":
        return requested
    return "local" if needed_bytes("local") <= MEMORY_SHARE * free_bytes else "chunked"


def pack(
    spans: Sequence[tuple[float, float]],
    *,
    max_seconds: float,
    padding: float,
    first: float,
    last: float,
) -> list[tuple[float, float]]:
    """Neighbouring (begin, end) joined up to `max_seconds`, with `padding` at both ends: never more
    than half of a gap, never beyond first..last.
    """
    groups: list[list[tuple[float, float]]] = []
    for span in spans:
        if groups and span[1] - groups[-1][0][0] + 2 * padding <= max_seconds:
            groups[-1].append(span)
        else:
            groups.append([span])
    edges = [
        first,
        *(0.5 * (before[-1][1] + after[0][0]) for before, after in itertools.pairwise(groups)),
        last,
    ]
    return [
        (max(group[0][0] - padding, low), min(group[-1][1] + padding, high))
        for group, (low, high) in zip(groups, itertools.pairwise(edges), strict=False)
    ]


def needed_bytes(model: Any, seconds: float, *, kind: str) -> float:
    """What the encoder takes for one recording in one piece, from the sizes of its largest tensors
    (measured in benchmarks/README.md).

    Seven times the scores (heads, T, T) of full attention, four times the band of local attention,
    and two and a half times the first convolution of the subsampling (channels, 4 T, mels / 2); all
    float32.
    """
    encoder, config = model.encoder, model.cfg
    features = seconds / parts.stride_seconds(model)
    frames, heads = features / encoder.subsampling_factor, encoder.layers[0].self_attn.h
    channels = encoder.pre_encode._conv_channels
    first_convolution = channels * (features / 2) * (int(config.preprocessor.features) / 2)
    scores = 7 * heads * frames * frames if kind == "full" else 4 * heads * frames * 2 * (128 + 128)
    return 4 * (scores + 2.5 * first_convolution)


def transcribe_recordings(
    model: Any,
    recordings: Iterable[tuple[Recording, str]],
    folder: TranscriptFolder,
    *,
    long_audio: str = "auto",
    batch_seconds: float = 120.0,
    on_total: Callable[[float], None] = lambda seconds: None,
    on_audio: Callable[[float], None] = lambda seconds: None,
    on_long: Callable[[str, str], None] = lambda name, way: None,
) -> tuple[float, dict[str, str]]:
    """Transcribe (recording, key) into `folder`, except the segments that it has; returns the
    seconds done and {name: why it failed}.

    `on_total` is told the seconds that there are to do, as soon as that is known, `on_audio` those
    just done, `on_long` the name of each recording above SHORT_SECONDS and the way it takes. Audio
    that is there under two names is transcribed once. Raises UserError if the memory does not
    suffice.
    """
    from parakeet_ft.transcription.decode import transcribe_segments

    by_key: dict[str, list[Recording]] = {}
    for recording, key in recordings:
        by_key.setdefault(key, []).append(recording)
    failed: dict[str, str] = {}
    segments: list[Segment] = []
    owners: list[tuple[str, int]] = []
    missing: dict[str, int] = {}

    def finish(key: str) -> None:
        for recording in by_key[key]:
            folder.write(recording, key)

    def fail(key: str, error: AudioError) -> None:
        failed.update({recording.name: str(error) for recording in by_key[key]})

    for key, (recording, *_) in by_key.items():
        try:
            if folder.parts(key) is None:
                seconds = measure(recording)
                planned = plan(model, recording, seconds, long_audio=long_audio)
                folder.store_parts(
                    key, seconds=seconds, parts=[dataclasses.asdict(part) for part in planned]
                )
        except AudioError as error:
            fail(key, error)
            continue
        planned = [Segment(**part) for part in folder.parts(key)[1]]
        numbers = folder.missing_parts(key, len(planned))
        missing[key] = len(numbers)
        if sum(segment.seconds for segment in planned) > SHORT_SECONDS:
            on_long(recording.name, way_taken(planned))
        segments += [planned[number] for number in numbers]
        owners += [(key, number) for number in numbers]
        if not numbers:
            finish(key)
    total = sum(segment.seconds for segment in segments)
    on_total(total)
    with _out_of_memory_told(batch_seconds):
        for results in transcribe_segments(model, segments, batch_seconds=batch_seconds):
            folder.store_transcripts(
                (*owners[index], result)
                for index, result in results
                if not isinstance(result, AudioError)
            )
            for index, result in results:
                key = owners[index][0]
                missing[key] -= 1
                if isinstance(result, AudioError):
                    fail(key, result)
                elif not missing[key] and by_key[key][0].name not in failed:
                    finish(key)
            on_audio(sum(segments[index].seconds for index, _ in results))
    return total, failed


def transcribe_files(
    model: Any, paths: Sequence[str], *, batch_seconds: float = 120.0, long_audio: str = "auto"
) -> list[Transcript]:
    """Transcripts of files in the order given; `set_decoding` says whether with word times. Raises
    AudioError for a file that cannot be read.
    """
    from parakeet_ft.transcription.decode import transcribe_segments

    recordings = [Recording(path, path) for path in paths]
    seconds = [measure(recording) for recording in recordings]
    plans = [
        plan(model, recording, length, long_audio=long_audio)
        for recording, length in zip(recordings, seconds, strict=True)
    ]
    segments = [segment for planned in plans for segment in planned]
    found: dict[int, Transcript] = {}
    for results in transcribe_segments(model, segments, batch_seconds=batch_seconds):
        for index, result in results:
            if isinstance(result, AudioError):
                raise result
            found[index] = result
    transcripts = iter(found[index] for index in range(len(segments)))
    return [
        join_segments([(segment, next(transcripts)) for segment in planned], seconds=length)
        for planned, length in zip(plans, seconds, strict=True)
    ]


def cut_like_a_recording(model: Any, *, long_audio: str) -> Callable[[Utterance], list[Segment]]:
    """How `transcribe` is to cut utterances so that they are heard as transcribe.py hears them."""

    def cut(utterance: Utterance) -> list[Segment]:
        if utterance.duration <= SHORT_SECONDS:
            return [segment_of(utterance)]
        recording = Recording(
            utterance.audio_filepath, "", offset=utterance.offset, duration=utterance.duration
        )
        return plan(model, recording, measure(recording), long_audio=long_audio)

    return cut


@contextlib.contextmanager
def _out_of_memory_told(batch_seconds: float) -> Iterator[None]:
    """Raises UserError if the memory does not suffice."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if "memory" not in f"{error} {type(error).__name__}".lower():
            raise
        reason = str(error).splitlines()[0] if str(error) else "no details"
        raise UserError(
            f"Out of memory ({reason}) with {batch_seconds:g} s of audio a batch. Give a lower "
            f"--batch-seconds, or --long-audio chunked for long recordings. What is done is kept."
        ) from None

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
from parakeet_ft.transcription.segments import Segment, segment_of, stored_segment
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
        seconds = probe(recording.source).duration
        if not seconds:  # recordings of browsers have no length in their header
            seconds = sum(map(len, stream_audio(recording.source))) / 16000
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
    rest = seconds - recording.offset
    return rest if recording.duration is None else min(recording.duration, rest)


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

    if not seconds:
        return []
    way = choose_way(
        seconds,
        requested=long_audio,
        free_bytes=free_bytes(parts.device(model)),
        needed_bytes=lambda kind: needed_bytes(model, seconds, kind=kind),
    )
    if way == "chunked":
        return _chunks(recording, seconds, chunk_seconds or CHUNK_SECONDS)
    own = attention(model)["kind"]
    return [
        Segment(
            recording.path,
            recording.offset,
            seconds,
            whole=recording.offset == 0 and recording.duration is None,
            attention=None if way in ("short", own) else way,
            member=recording.member,
        )
    ]


def _chunks(recording: Recording, seconds: float, chunk_seconds: float) -> list[Segment]:
    """A recording cut where nobody speaks."""
    from parakeet_ft.transcription.segmentation import speech_spans

    first = recording.offset
    last = recording.offset + seconds
    longest = chunk_seconds - 2 * CHUNK_PADDING_SECONDS
    spans = [
        (max(begin, first), min(end, last))
        for begin, end in speech_spans(recording.source, max_seconds=longest)
    ]
    chunks = pack(
        [(begin, end) for begin, end in spans if begin < end],
        max_seconds=chunk_seconds,
        padding=CHUNK_PADDING_SECONDS,
        first=first,
        last=last,
    )
    return [
        Segment(recording.path, begin, end - begin, whole=False, member=recording.member)
        for begin, end in chunks
    ]


def way_taken(segments: Sequence[Segment]) -> str:
    """How a planned long recording goes through the model, in words."""
    if len(segments) > 1:
        return f"cut into {len(segments)} chunks where nobody speaks"
    if segments[0].attention:
        return f"in one piece, with {segments[0].attention} attention"
    return "in one piece, with the checkpoint's attention"


def way_lines(ways: dict[str, str]) -> list[str]:
    """For people: one line if all long recordings (name: way) go the same way, else one for
    each.
    """
    if len(set(ways.values())) != 1:
        return [f"{name}: {way}" for name, way in ways.items()]
    way = next(iter(ways.values()))
    if len(ways) == 1:
        return [f"the long recording goes {way}"]
    return [f"all {len(ways)} long recordings go {way}"]


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
    stretches = [(group[0][0], group[-1][1]) for group in groups]
    gaps = itertools.pairwise(stretches)
    edges = [first, *(0.5 * (before[1] + after[0]) for before, after in gaps), last]
    limits = itertools.pairwise(edges)
    return [
        (max(begin - padding, low), min(end + padding, high))
        for (begin, end), (low, high) in zip(stretches, limits, strict=False)
    ]


def needed_bytes(model: Any, seconds: float, *, kind: str) -> float:
    """What the encoder takes for one recording in one piece, from the sizes of its largest tensors
    (measured in benchmarks/README.md).

    Seven times the scores (heads, T, T) of full attention, four times the band of local attention,
    and two and a half times the first convolution of the subsampling (channels, 4 T, mels / 2); all
    float32.
    """
    encoder = model.encoder
    features = seconds / parts.stride_seconds(model)
    frames = features / encoder.subsampling_factor
    heads = encoder.layers[0].self_attn.h
    channels = encoder.pre_encode._conv_channels
    mels = int(model.cfg.preprocessor.features)
    first_convolution = channels * (features / 2) * (mels / 2)
    if kind == "full":
        scores = 7 * heads * frames * frames
    else:
        scores = 4 * heads * frames * 2 * (128 + 128)
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

    work = _Work(recordings, folder)
    for key, (recording, *_) in work.by_key.items():
        try:
            planned = _stored_plan(model, recording, key, folder, long_audio=long_audio)
        except AudioError as error:
            work.fail(key, error)
            continue
        if sum(segment.seconds for segment in planned) > SHORT_SECONDS:
            on_long(recording.name, way_taken(planned))
        work.add(key, planned)
    total = sum(segment.seconds for segment in work.segments)
    on_total(total)
    with _out_of_memory_told(batch_seconds):
        for results in transcribe_segments(model, work.segments, batch_seconds=batch_seconds):
            work.take(results)
            on_audio(sum(work.segments[index].seconds for index, _ in results))
    return total, work.failed


class _Work:
    """The segments that are to be transcribed, and what becomes of the recordings they are of."""

    def __init__(
        self, recordings: Iterable[tuple[Recording, str]], folder: TranscriptFolder
    ) -> None:
        self.folder = folder
        self.by_key: dict[str, list[Recording]] = {}
        for recording, key in recordings:
            self.by_key.setdefault(key, []).append(recording)
        self.segments: list[Segment] = []
        self.owners: list[tuple[str, int]] = []
        self.missing: dict[str, int] = {}
        self.failed: dict[str, str] = {}

    def add(self, key: str, planned: list[Segment]) -> None:
        """The segments that the folder lacks; a recording that lacks none is written."""
        numbers = self.folder.missing_parts(key, len(planned))
        self.missing[key] = len(numbers)
        self.segments += [planned[number] for number in numbers]
        self.owners += [(key, number) for number in numbers]
        if not numbers:
            self._finish(key)

    def take(self, results: list[tuple[int, Transcript | AudioError]]) -> None:
        """Keep what was heard, then write the recordings of which all is heard."""
        self.folder.store_transcripts(
            (*self.owners[index], result)
            for index, result in results
            if not isinstance(result, AudioError)
        )
        for index, result in results:
            key, _ = self.owners[index]
            self.missing[key] -= 1
            if isinstance(result, AudioError):
                self.fail(key, result)
            elif not self.missing[key] and self.by_key[key][0].name not in self.failed:
                self._finish(key)

    def fail(self, key: str, error: AudioError) -> None:
        """Remember why a recording has no transcript."""
        self.failed.update({recording.name: str(error) for recording in self.by_key[key]})

    def _finish(self, key: str) -> None:
        """Write the files of a recording, under each of its names."""
        for recording in self.by_key[key]:
            self.folder.write(recording, key)


def _stored_plan(
    model: Any, recording: Recording, key: str, folder: TranscriptFolder, *, long_audio: str
) -> list[Segment]:
    """The segments of a recording as `folder` has them, planned now if it has none. Raises
    AudioError.
    """
    stored = folder.parts(key)
    if stored is not None:
        return [stored_segment(part) for part in stored[1]]
    seconds = measure(recording)
    planned = plan(model, recording, seconds, long_audio=long_audio)
    parts_of_it = [dataclasses.asdict(segment) for segment in planned]
    folder.store_parts(key, seconds=seconds, parts=parts_of_it)
    return planned


def transcribe_files(
    model: Any, paths: Sequence[str], *, batch_seconds: float = 120.0, long_audio: str = "auto"
) -> list[Transcript]:
    """Transcripts of files in the order given; `set_decoding` says whether with word times. Raises
    AudioError for a file that cannot be read.
    """
    from parakeet_ft.transcription.decode import transcribe_segments

    recordings = [Recording(path, path) for path in paths]
    seconds = [measure(recording) for recording in recordings]
    owned: list[tuple[int, Segment]] = []
    for number, recording in enumerate(recordings):
        planned = plan(model, recording, seconds[number], long_audio=long_audio)
        owned += [(number, segment) for segment in planned]
    found: dict[int, Transcript] = {}
    segments = [segment for _, segment in owned]
    for results in transcribe_segments(model, segments, batch_seconds=batch_seconds):
        found.update(_checked(results))
    heard: list[list[tuple[Segment, Transcript]]] = [[] for _ in recordings]
    for index, (number, segment) in enumerate(owned):
        heard[number].append((segment, found[index]))
    return [
        join_segments(pairs, seconds=length) for pairs, length in zip(heard, seconds, strict=True)
    ]


def _checked(
    results: list[tuple[int, Transcript | AudioError]],
) -> Iterator[tuple[int, Transcript]]:
    """The transcripts. Raises the first error among them."""
    for index, result in results:
        if isinstance(result, AudioError):
            raise result
        yield index, result


def cut_like_a_recording(model: Any, *, long_audio: str) -> Callable[[Utterance], list[Segment]]:
    """How `transcribe` is to cut utterances so that they are heard as transcribe.py hears them."""

    def cut(utterance: Utterance) -> list[Segment]:
        if utterance.duration <= SHORT_SECONDS:
            return [segment_of(utterance)]
        recording = Recording(
            utterance.audio_filepath,
            "",
            offset=utterance.offset,
            duration=utterance.duration,
            member=utterance.member,
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

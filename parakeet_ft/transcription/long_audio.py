"""Recordings of any length to transcripts with a NeMo model: how each is cut, batches by length,
audio decoded while the model works.

Short recordings go through the model in one piece, as in training. Long ones in one of three ways:
`full`, one piece with full attention, whose memory grows with the square of the length; `local`,
one piece with attention to ten seconds on either side; `chunked`, cut where silero-vad hears nobody
speak.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from parakeet_ft.data.audio import AudioError, probe, read_audio, stream_audio
from parakeet_ft.errors import UserError
from parakeet_ft.transcription.captions import Transcript, Word
from parakeet_ft.transcription.recordings import Recording
from parakeet_ft.transcription.word_times import pauses, word_spans

if TYPE_CHECKING:
    import torch

    from parakeet_ft.transcription.folder import TranscriptFolder

# Up to here a recording is short: one piece, with the attention that the checkpoint has.
SHORT_SECONDS = 60.0
CHUNK_SECONDS = 30.0
# Audio kept on both sides of speech: what the detector cuts off words, and the quiet that models
# were trained with.
CHUNK_PADDING_SECONDS = 0.4
# Decoded whole, a long stereo recording of 44.1 kHz needs six times the memory of what the model
# hears of it.
STREAM_SECONDS = 300.0
# -80 dB below full scale, three steps of 16-bit audio: digital silence, dithered or not. Models
# write something for it.
SILENCE = 1e-4
# Of the memory that is free, what one recording in one piece may take.
MEMORY_SHARE = 0.5


@dataclasses.dataclass(frozen=True)
class Piece:
    """What goes through the model at once: `seconds` of `path` from `begin`, `whole` if that is all
    of it. `attention` None: the checkpoint's.
    """

    path: str
    begin: float
    seconds: float
    whole: bool
    attention: str | None = None


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
) -> list[Piece]:
    """The pieces of a recording, in order; none if nobody speaks. Raises AudioError if it has to be
    cut and cannot be decoded.
    """
    from parakeet_ft.model.attention import attention

    whole = recording.offset == 0 and recording.duration is None
    if not seconds:
        return []
    way = choose_way(
        seconds,
        requested=long_audio,
        free_bytes=free_bytes(next(model.parameters()).device),
        needed_bytes=lambda kind: needed_bytes(model, seconds, kind=kind),
    )
    if way != "chunked":
        own = attention(model)["kind"]
        return [
            Piece(
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
    return [Piece(recording.path, begin, end - begin, False) for begin, end in chunks]


def way_taken(parts: Sequence[Piece]) -> str:
    """How a planned long recording goes through the model, in words."""
    if len(parts) > 1:
        return f"cut into {len(parts)} chunks where nobody speaks"
    return (
        f"in one piece, with {parts[0].attention} attention"
        if parts[0].attention
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
    features = seconds / float(config.preprocessor.window_stride)
    frames, heads = features / encoder.subsampling_factor, encoder.layers[0].self_attn.h
    channels = encoder.pre_encode._conv_channels
    first_convolution = channels * (features / 2) * (int(config.preprocessor.features) / 2)
    scores = 7 * heads * frames * frames if kind == "full" else 4 * heads * frames * 2 * (128 + 128)
    return 4 * (scores + 2.5 * first_convolution)


def free_bytes(device: torch.device) -> float:
    """Memory that can still be had: of the GPU, or of this machine or container."""
    if device.type == "cuda":
        import torch

        return float(torch.cuda.mem_get_info(device)[0])
    found = [
        line.split()[1]
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemAvailable")
    ]
    available = 1024.0 * int(found[0])
    with contextlib.suppress(OSError, ValueError):  # no cgroup v2, or no limit ("max")
        group = Path("/sys/fs/cgroup")
        available = min(
            available,
            float((group / "memory.max").read_text())
            - float((group / "memory.current").read_text()),
        )
    return available


def set_decoding(model: Any, *, head: str = "default", words: bool = False) -> str:
    """Choose the head of a hybrid, and whether times of words are computed; the strategy stays the
    model's own. Returns the head.

    Raises UserError for a head that the model has not.
    """
    from omegaconf import open_dict

    own = "transducer" if hasattr(model, "joint") else "ctc"
    chosen = own if head == "default" else head
    if chosen != own and not hasattr(model, "ctc_decoder"):
        raise UserError(
            f"--head {head}: this model has only a {own} head. Leave --head out, or give a hybrid "
            f"checkpoint."
        )
    config = (
        model.cfg.aux_ctc.decoding
        if chosen == "ctc" and own == "transducer"
        else model.cfg.decoding
    )
    with open_dict(config):
        config.compute_timestamps = words
    if hasattr(model, "ctc_decoder"):
        model.change_decoding_strategy(
            config, decoder_type="ctc" if chosen == "ctc" else "rnnt", verbose=False
        )
    else:
        model.change_decoding_strategy(config, verbose=False)
    return chosen


def decode_batch(model: Any, audio: torch.Tensor, lengths: torch.Tensor) -> list[Transcript]:
    """Transcripts of audio (B, T) with lengths (B) in samples, as `set_decoding` has set the
    model.
    """
    outputs = model.forward(input_signal=audio, input_signal_length=lengths)
    encoded, frames = outputs[0].float(), outputs[1]
    decoding = model.decoding
    if not hasattr(model, "joint"):
        found = decoding.ctc_decoder_predictions_tensor(
            encoded, decoder_lengths=frames, return_hypotheses=True
        )
    elif getattr(model, "cur_decoder", "rnnt") == "ctc":
        decoding = model.ctc_decoding
        log_probs = model.ctc_decoder(encoder_output=encoded).float()
        found = decoding.ctc_decoder_predictions_tensor(
            log_probs, decoder_lengths=frames, return_hypotheses=True
        )
    else:
        found = decoding.rnnt_decoder_predictions_tensor(
            encoder_output=encoded, encoded_lengths=frames, return_hypotheses=True
        )
    frame_seconds = float(model.cfg.preprocessor.window_stride) * model.encoder.subsampling_factor
    rate_hz = model.preprocessor._sample_rate
    best = [hypothesis[0] if isinstance(hypothesis, list) else hypothesis for hypothesis in found]
    return [
        _transcript(
            hypothesis, decoding, samples[:length], frame_seconds=frame_seconds, rate_hz=rate_hz
        )
        for hypothesis, samples, length in zip(
            best, audio.cpu().numpy(), lengths.tolist(), strict=True
        )
    ]


def _transcript(
    hypothesis: Any, decoding: Any, samples: np.ndarray, *, frame_seconds: float, rate_hz: int
) -> Transcript:
    duration = len(samples) / rate_hz
    if not isinstance(hypothesis.timestamp, dict):  # no word times were asked for
        return Transcript(hypothesis.text, (), duration)
    texts, frames = word_frames(hypothesis, decoding)
    # The features of a frame lie around its number, not behind it.
    carried = [
        tuple(((begin - 0.5) * frame_seconds, (end - 0.5) * frame_seconds) for begin, end in word)
        for word in frames
    ]
    spans = word_spans(carried, pauses(samples, rate_hz=rate_hz), duration=duration)
    words = tuple(Word(text, *span) for text, span in zip(texts, spans, strict=True))
    return Transcript(hypothesis.text, words, duration)


def word_frames(
    hypothesis: Any, decoding: Any
) -> tuple[list[str], list[tuple[tuple[int, int], tuple[int, int]]]]:
    """The words of a hypothesis with timestamps, as NeMo parts them, and the frames (begin, end) of
    each one's first and last token.

    A mark of punctuation has the frames of the token before it, as it is not spoken.
    """
    from nemo.collections.asr.parts.utils.timestamp_utils import get_words_offsets

    characters = hypothesis.timestamp["char"]
    texts = [
        row["char"] if isinstance(row["char"], str) else "".join(row["char"]) for row in characters
    ]
    frames = _token_frames(hypothesis, decoding, characters)
    for index, text in enumerate(texts):
        if index and text in (decoding.supported_punctuation or ()):
            frames[index] = frames[index - 1]
    # With its own number in place of each token's time, NeMo says which tokens make a word.
    numbered = [
        {"char": text, "start_offset": index, "end_offset": index}
        for index, text in enumerate(texts)
    ]
    labels = [int(label) for label in hypothesis.y_sequence]
    blank = decoding.blank_id
    if len(labels) != len(texts):  # CTC: a label for each frame
        labels = [label for label, _ in itertools.groupby(labels) if label != blank]
    encoded = [
        row | {"char": decoding.decode_ids_to_tokens([label])[0]}
        for row, label in zip(numbered, labels, strict=True)
    ]
    words = get_words_offsets(
        char_offsets=numbered,
        encoded_char_offsets=encoded,
        word_delimiter_char=decoding.word_seperator,
        supported_punctuation=decoding.supported_punctuation,
        tokenizer_type=decoding.tokenizer_type,
        decode_tokens_to_str=decoding.decode_tokens_to_str,
    )
    found = [
        (str(word["word"]).strip(), frames[word["start_offset"]], frames[word["end_offset"]])
        for word in words
    ]
    return [text for text, *_ in found if text], [
        (first, last) for text, first, last in found if text
    ]


def _token_frames(
    hypothesis: Any, decoding: Any, characters: list[dict[str, Any]]
) -> list[tuple[int, int]]:
    """(begin, end) of each token. CTC: the frames that name it; else the one that wrote it, TDT:
    and its duration.
    """
    labels = [int(label) for label in hypothesis.y_sequence]
    if len(labels) == len(characters):
        offsets = [(int(row["start_offset"]), int(row["end_offset"])) for row in characters]
        return [(begin, max(end, begin + 1)) for begin, end in offsets]
    frames, at = [], 0
    for label, run in itertools.groupby(labels):
        length = len(list(run))
        if label != decoding.blank_id:
            frames.append((at, at + length))
        at += length
    return frames


def transcribe_pieces(
    model: Any,
    pieces: Sequence[Piece],
    *,
    batch_seconds: float = 120.0,
    num_threads: int | None = None,
) -> Iterator[list[tuple[int, Transcript | AudioError]]]:
    """Yield (index of the piece, its transcript or why it has none), batch by batch: sorted by
    length, the checkpoint's attention first.

    `num_threads` decode audio while the model works on the batch before; two batches of audio are
    in memory at most. Silence gives an empty transcript. Raises UserError if the memory does not
    suffice.
    """
    import torch

    from parakeet_ft.model.attention import attention, set_attention
    from parakeet_ft.transcription.decode import evaluating
    from parakeet_ft.transcription.decoding import disable_cuda_graphs

    device, rate_hz, own = (
        next(model.parameters()).device,
        model.preprocessor._sample_rate,
        attention(model),
    )
    disable_cuda_graphs(model)
    with (
        evaluating(model),
        _exact_features(model),
        torch.inference_mode(),
        torch.autocast(device.type, enabled=False),
    ):
        try:
            for indices, audio in _read_ahead(
                _batches(pieces, batch_seconds=batch_seconds),
                lambda i: read_piece(pieces[i], rate_hz=rate_hz),
                num_threads=num_threads or min(4, os.cpu_count() or 1),
            ):
                _use_attention(model, pieces[indices[0]].attention, own=own)
                results: list[tuple[int, Transcript | AudioError]] = []
                heard = []
                for index, samples in zip(indices, audio, strict=True):
                    if isinstance(samples, AudioError):
                        results.append((index, samples))
                    elif not len(samples) or np.abs(samples).max() < SILENCE:
                        results.append((index, Transcript("", (), len(samples) / rate_hz)))
                    else:
                        heard.append((index, torch.from_numpy(samples)))
                if heard:
                    lengths = torch.tensor([len(samples) for _, samples in heard], device=device)
                    padded = torch.nn.utils.rnn.pad_sequence(
                        [samples for _, samples in heard], batch_first=True
                    ).to(device)
                    results += zip(
                        (index for index, _ in heard),
                        decode_batch(model, padded, lengths),
                        strict=True,
                    )
                yield results
        except (RuntimeError, MemoryError) as error:
            if "memory" not in f"{error} {type(error).__name__}".lower():
                raise
            raise UserError(
                f"Out of memory ({str(error).splitlines()[0] if str(error) else 'no details'}) "
                f"with {batch_seconds:g} s of audio a "
                "batch. Give a lower --batch-seconds, or --long-audio chunked for long recordings. "
                "What is done is kept."
            ) from None
        finally:
            if attention(model) != own:
                set_attention(model, **own)


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
    """Transcribe (recording, key) into `folder`, except the pieces that it has; returns the seconds
    done and {name: why it failed}.

    `on_total` is told the seconds that there are to do, as soon as that is known, `on_audio` those
    just done, `on_long` the name of each recording above SHORT_SECONDS and the way it takes. Audio
    that is there under two names is transcribed once.
    """
    by_key: dict[str, list[Recording]] = {}
    for recording, key in recordings:
        by_key.setdefault(key, []).append(recording)
    failed: dict[str, str] = {}
    pieces: list[Piece] = []
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
                parts = plan(model, recording, seconds, long_audio=long_audio)
                folder.store_parts(
                    key, seconds=seconds, parts=[dataclasses.asdict(part) for part in parts]
                )
        except AudioError as error:
            fail(key, error)
            continue
        parts = [Piece(**part) for part in folder.parts(key)[1]]
        numbers = folder.missing_parts(key, len(parts))
        missing[key] = len(numbers)
        if sum(part.seconds for part in parts) > SHORT_SECONDS:
            on_long(recording.name, way_taken(parts))
        pieces += [parts[number] for number in numbers]
        owners += [(key, number) for number in numbers]
        if not numbers:
            finish(key)
    total = sum(piece.seconds for piece in pieces)
    on_total(total)
    for results in transcribe_pieces(model, pieces, batch_seconds=batch_seconds):
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
        on_audio(sum(pieces[index].seconds for index, _ in results))
    return total, failed


def transcribe_files(
    model: Any, paths: Sequence[str], *, batch_seconds: float = 120.0
) -> list[Transcript]:
    """Transcripts of short files in the order given; `set_decoding` says whether with word times.
    Raises AudioError for a file that cannot be read.
    """
    pieces = [Piece(path, 0.0, measure(Recording(path, path)), True) for path in paths]
    found: dict[int, Transcript] = {}
    for results in transcribe_pieces(model, pieces, batch_seconds=batch_seconds):
        for index, result in results:
            if isinstance(result, AudioError):
                raise result
            found[index] = result
    return [found[index] for index in range(len(paths))]


def read_piece(piece: Piece, *, rate_hz: int) -> np.ndarray:
    """Mono audio (samples,) of a piece. Raises AudioError; what holds no audio is empty."""
    try:
        if piece.whole and piece.seconds > STREAM_SECONDS:
            return np.concatenate(list(stream_audio(piece.path, rate_hz=rate_hz)))
        return read_audio(
            piece.path,
            offset=piece.begin,
            duration=None if piece.whole else piece.seconds,
            rate_hz=rate_hz,
        )
    except AudioError as error:
        if error.reason in ("zero_bytes", "no_samples"):
            return np.zeros(0, dtype=np.float32)
        raise
    except (OSError, ValueError, RuntimeError) as error:
        raise AudioError("unreadable", f"Cannot decode {piece.path}: {error}") from None


def _batches(pieces: Sequence[Piece], *, batch_seconds: float) -> list[list[int]]:
    from parakeet_ft.transcription.decode import length_batches

    batches = []
    for kind in dict.fromkeys(
        sorted(
            (piece.attention for piece in pieces), key=lambda kind: (kind is not None, kind or "")
        )
    ):
        indices = [index for index, piece in enumerate(pieces) if piece.attention == kind]
        batches += [
            [indices[i] for i in batch]
            for batch in length_batches(
                [pieces[i].seconds for i in indices], batch_seconds=batch_seconds
            )
        ]
    return batches


def _read_ahead(
    batches: Iterable[list[int]],
    read: Callable[[int], np.ndarray],
    *,
    num_threads: int,
    ahead: int = 1,
) -> Iterator[tuple[list[int], list[np.ndarray | AudioError]]]:
    """Batches with their audio, or the errors of reading it, while threads read the next `ahead` of
    them.
    """
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="audio")
    waiting: collections.deque[tuple[list[int], list[Future]]] = collections.deque()
    remaining = iter(batches)
    try:
        while True:
            while len(waiting) <= ahead and (batch := next(remaining, None)) is not None:
                waiting.append((batch, [pool.submit(read, index) for index in batch]))
            if not waiting:
                return
            batch, futures = waiting.popleft()
            yield batch, [_result(future) for future in futures]
    finally:
        pool.shutdown(cancel_futures=True)


def _result(future: Future) -> np.ndarray | AudioError:
    try:
        return future.result()
    except AudioError as error:
        return error


def _use_attention(model: Any, kind: str | None, *, own: dict[str, Any]) -> None:
    from parakeet_ft.model.attention import attention, set_attention

    wanted = own["kind"] if kind is None else kind
    if attention(model)["kind"] != wanted:
        set_attention(model, **(own if wanted == own["kind"] else {"kind": wanted}))


@contextlib.contextmanager
def _exact_features(model: Any) -> Iterator[None]:
    """No dither and no padding of features, as NeMo's transcribe() (parts/mixins/transcription.py,
    3.0.0).
    """
    featurizer = model.preprocessor.featurizer
    before = featurizer.dither, featurizer.pad_to
    featurizer.dither, featurizer.pad_to = 0.0, 0
    try:
        yield
    finally:
        featurizer.dither, featurizer.pad_to = before

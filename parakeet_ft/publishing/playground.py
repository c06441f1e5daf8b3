"""A page in the browser where a recording is transcribed by the base and the tuned model side by
side. It asks the network for nothing.
"""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parakeet_ft.data import audio
from parakeet_ft.errors import UserError
from parakeet_ft.files import misfit, read_json
from parakeet_ft.scoring import wer
from parakeet_ft.transcription.words import Word

if TYPE_CHECKING:
    import gradio

# Longer ones keep a visitor waiting.
MAX_SECONDS = 600.0
CSS = """
.transcript { font-size: 1.15rem; line-height: 1.9; padding: .25rem .1rem;
  display: flex; flex-wrap: wrap; gap: .1rem .5rem; }
.transcript rt { font-size: .62rem; opacity: .65; font-variant-numeric: tabular-nums;
  user-select: none; }
.transcript .only { border-radius: 3px; padding: .1em .2em; background: #b4540a2b;
  box-shadow: inset 0 -2px #b4540a; }
.transcript.tuned .only { background: #0a6b5c2b; box-shadow: inset 0 -2px #0a8f7a; }
.transcript .silent { opacity: .65; }
.summary { font-size: .95rem; } .summary b { font-variant-numeric: tabular-nums; }
"""


def base_beside(tuned: Path) -> str | None:
    """The checkpoint from which the run that wrote `tuned` began, as its run.json names it; None if
    there is no such file.
    """
    try:
        run = read_json(tuned.parent / "run.json")
    except ValueError:
        return None
    named = misfit(run, {"config": {"model": {"source": str}}}) is None
    return run["config"]["model"]["source"] if named else None


def check_length(path: str) -> None:
    """Raise UserError if a recording cannot be read or lasts longer than MAX_SECONDS."""
    from parakeet_ft.transcription.long_audio import measure
    from parakeet_ft.transcription.recordings import Recording

    seconds = measure(Recording(path, path))
    if seconds > MAX_SECONDS:
        raise UserError(
            f"This recording lasts {seconds / 60:.1f} minutes; this page takes at most "
            f"{MAX_SECONDS / 60:.0f}. Cut a segment out of it."
        )


def words_of(model: Any, path: str) -> tuple[Word, ...]:
    """What `model` hears in a file of any format, rate and number of channels, as transcribe.py
    writes it.
    """
    from parakeet_ft.transcription.decoding import set_decoding
    from parakeet_ft.transcription.long_audio import transcribe_files

    set_decoding(model, words=True)
    return transcribe_files(model, [path])[0].words


def transcript_html(words: Sequence[Word], other: Sequence[Word], *, kind: str) -> str:
    """Words with their times above; those that `other` has not in this place are marked. `kind`:
    base or tuned.
    """
    if not words:
        return f'<div class="transcript {kind}"><span class="silent">(nothing heard)</span></div>'
    pairs = wer.word_diff(" ".join(w.text for w in other), " ".join(w.text for w in words))
    marked = [theirs != ours for theirs, ours in pairs if ours]
    shown = "".join(
        _word_html(word, "only" if only else "same")
        for word, only in zip(words, marked, strict=True)
    )
    return f'<div class="transcript {kind}">{shown}</div>'


def _word_html(word: Word, look: str) -> str:
    """A word with the time at which it begins above it."""
    return (
        f'<span><ruby class="{look}" title="{word.begin:.2f} to '
        f'{word.end:.2f} s">{html.escape(word.text)}'
        f"<rt>{word.begin:.2f}</rt></ruby></span>"
    )


def compare(path: str | None, *, models: dict[str, Any]) -> tuple[str, ...]:
    """What the page shows for an uploaded file: a summary, then one transcript per model. `models`
    has `tuned` and, if known, `base`.
    """
    if path is None:
        return ("",) * (1 + len(models))
    check_length(path)
    heard = {kind: words_of(model, path) for kind, model in models.items()}
    others = dict(zip(heard, reversed(heard.values()), strict=True))
    transcripts = [transcript_html(words, others[kind], kind=kind) for kind, words in heard.items()]
    return (f'<p class="summary">{_told(audio.probe(path), heard)}</p>', *transcripts)


def _told(info: audio.AudioInfo, heard: dict[str, tuple[Word, ...]]) -> str:
    """What the file is and, of two models, how far they differ."""
    channels = "channels" if info.channels > 1 else "channel"
    told = f"{info.duration:.1f} s, {info.rate_hz:,} Hz, {info.channels} {channels}"
    if len(heard) < 2:
        return told
    base, tuned = (" ".join(word.text for word in heard[kind]) for kind in ("base", "tuned"))
    pairs = wer.word_diff(base, tuned)
    differ = sum(first != second for first, second in pairs)
    if not differ:
        return f"{told} &middot; both hear the same"
    return f"{told} &middot; <b>{differ}</b> of {len(pairs)} words differ"


def build_page(models: dict[str, Any], *, names: dict[str, str]) -> gradio.Blocks:
    """The page: a recording in, a column of words for each of `models` (base, tuned) headed by its
    name.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import gradio

    def show(path: str | None) -> tuple[str, ...]:
        """compare(), with what is wrong shown on the page."""
        try:
            return compare(path, models=models)
        except UserError as error:
            raise gradio.Error(html.escape(str(error)), print_exception=False) from None

    with gradio.Blocks(title="parakeet-ft: before and after", analytics_enabled=False) as page:
        gradio.Markdown(
            "## Before and after tuning\nUpload or record speech. Words that only one of the two "
            "hears are marked; above each stands when it begins, in seconds."
            if len(models) == 2
            else "## The tuned model\nUpload or record speech. Above each word stands when it "
            "begins, in seconds."
        )
        recording = gradio.Audio(
            sources=["upload", "microphone"],
            type="filepath",
            label="Recording",
            elem_id="recording",
            buttons=[],
        )
        summary = gradio.HTML(elem_id="summary")
        columns = []
        with gradio.Row():
            for kind in models:
                with gradio.Column(min_width=280):
                    name = names[kind]
                    shown = Path(name).name if name.endswith(".nemo") else name
                    gradio.Markdown(f"**{kind}** {shown}")
                    columns.append(gradio.HTML(elem_id=kind))
        recording.change(
            show,
            inputs=recording,
            outputs=[summary, *columns],
            show_progress="minimal",
            api_name="transcribe",
        )
    return page


def serve(
    page: gradio.Blocks,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    share: bool = False,
    block: bool = True,
) -> str:
    """Serve the page until interrupted, or until page.close() where `block` is off; returns its
    address.

    Fonts are those of the reader's system. Raises UserError if the port is taken or none.
    """
    import gradio

    theme = gradio.themes.Base(
        primary_hue="teal",
        neutral_hue="slate",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            share=share,
            theme=theme,
            css=CSS,
            footer_links=[],
            quiet=True,
            prevent_thread_lock=True,
            ssr_mode=False,
        )
    except (OSError, OverflowError) as error:  # a port above 65,535 overflows
        raise UserError(
            f"The page cannot be served on port {port}: {error}. Give another with --port, or "
            f"leave it out for a free one."
        ) from None
    if block:
        page.block_thread()
    return address

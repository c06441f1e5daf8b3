"""The page of base and tuned model: what it hears, marks and refuses, and a real upload in a real
browser.
"""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import soundfile

from parakeet_ft.data.audio import read_audio
from parakeet_ft.data.manifest import read_manifest
from parakeet_ft.errors import UserError
from parakeet_ft.files import DEMO
from parakeet_ft.model.restore import restore
from parakeet_ft.publishing import playground
from parakeet_ft.transcription.decode import transcribe
from parakeet_ft.transcription.words import Word
from recipes import demo_ui

ROOT = Path(__file__).resolve().parents[2]
UTTERANCE = read_manifest(DEMO / "guard.jsonl")[2]


@pytest.fixture(scope="module")
def models():
    return {"base": restore("tiny").eval(), "tuned": restore("tiny_tdt_ctc").eval()}


@pytest.mark.parametrize("kind", ["base", "tuned"])
def test_words_are_those_of_the_scored_transcript_in_order_of_time(kind, models):
    words = playground.words_of(models[kind], UTTERANCE.audio_filepath)
    assert " ".join(w.text for w in words) == transcribe(models[kind], [UTTERANCE])[0] != ""
    starts = [w.begin for w in words]
    assert starts == sorted(starts) and all(
        0 <= w.begin <= w.end <= UTTERANCE.duration + 0.1 for w in words
    )


def test_without_gradio_the_recipe_says_what_to_install(monkeypatch):
    monkeypatch.setattr(demo_ui.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["demo_ui.py", "tiny"])
    with pytest.raises(UserError, match=r"parakeet-ft\[ui\]"):
        demo_ui.main()


def test_the_recipe_prints_what_it_restores_and_its_address_and_nothing_else(tmp_path):
    pytest.importorskip("gradio")
    command = [sys.executable, ROOT / "recipes" / "demo_ui.py", "tiny_tdt_ctc", "tiny"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        lines = [process.stdout.readline() for _ in range(3)]
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=60)
    assert lines[:2] == ["restoring base: tiny\n", "restoring tuned: tiny_tdt_ctc\n"]
    assert re.fullmatch(r"Open http://127.0.0.1:\d+/ in a browser; Ctrl-C ends.\n", lines[2])
    # Before the page waits for it, Ctrl-C has a sentence.
    assert rest in (("", ""), ("", "\nSIGINT: stopped. The same command may be given again.\n"))
    assert "restored" in (tmp_path / "outputs" / "demo_ui.log").read_text()


@pytest.mark.parametrize(("rate_hz", "channels"), [(8000, 2), (44100, 1)])
def test_any_rate_and_number_of_channels_is_heard(rate_hz, channels, models, tmp_path):
    path = tmp_path / "a.wav"
    samples = read_audio(UTTERANCE.audio_filepath, rate_hz=rate_hz)
    soundfile.write(path, numpy.repeat(samples[:, None], channels, axis=1), rate_hz)
    summary, *columns = playground.compare(str(path), models=models)
    assert (
        f"{rate_hz:,} Hz" in summary
        and f"{channels} channel" in summary
        and all("<ruby" in column for column in columns)
    )


def test_silence_is_heard_as_nothing(models, tmp_path):
    soundfile.write(tmp_path / "a.wav", numpy.zeros(16000), 16000)
    summary, *columns = playground.compare(
        str(tmp_path / "a.wav"), models={"tuned": models["tuned"]}
    )
    assert "1.0 s" in summary and "(nothing heard)" in columns[0]


def test_words_that_the_other_did_not_hear_are_marked_and_text_is_escaped():
    ours, theirs = (
        [Word("a", 0, 0.1), Word("<b>", 0.5, 0.6), Word("c", 1, 1.1)],
        [Word("a", 0, 0.1), Word("c", 1, 1.1)],
    )
    shown = playground.transcript_html(ours, theirs, kind="tuned")
    assert shown.count('class="only"') == 1 and "&lt;b&gt;<rt>0.50" in shown and "<b>" not in shown
    assert 'class="only"' not in playground.transcript_html(theirs, ours, kind="base")


def test_a_recording_that_is_too_long_or_no_audio_is_refused(tmp_path, monkeypatch):
    (tmp_path / "a.wav").write_text("no audio")
    with pytest.raises(UserError, match="a.wav"):
        playground.check_length(str(tmp_path / "a.wav"))
    monkeypatch.setattr(playground, "MAX_SECONDS", 1.0)
    with pytest.raises(UserError, match="at most"):
        playground.check_length(UTTERANCE.audio_filepath)


def test_the_base_is_the_one_that_the_run_began_from(tmp_path, capsys):
    tuned = tmp_path / "best.nemo"
    tuned.write_bytes((DEMO / "tiny.nemo").read_bytes())
    assert (
        demo_ui.choose_models(str(tuned), None) == {"tuned": str(tuned)}
        and "No base is given" in capsys.readouterr().err
    )
    (tmp_path / "run.json").write_text(json.dumps({"config": {"model": {"source": "tiny"}}}))
    assert demo_ui.choose_models(str(tuned), None) == {"base": "tiny", "tuned": str(tuned)}
    assert demo_ui.choose_models(str(tuned), "tiny_tdt_ctc")["base"] == "tiny_tdt_ctc"
    (tmp_path / "run.json").write_text(
        json.dumps({"config": {"model": {"source": str(tmp_path / "gone.nemo")}}})
    )
    assert (
        list(demo_ui.choose_models(str(tuned), None)) == ["tuned"]
        and "left out: No model at" in capsys.readouterr().err
    )
    with pytest.raises(UserError, match="No model at"):
        demo_ui.choose_models(str(tuned), str(tmp_path / "gone.nemo"))


@pytest.mark.slow
def test_an_upload_shows_both_transcripts_with_times_and_asks_nobody_outside(
    models, open_page, tmp_path
):
    gradio = pytest.importorskip("gradio")
    built = playground.build_page(models, names={"base": "tiny", "tuned": "tiny_tdt_ctc"})
    address = playground.serve(built, block=False)
    try:
        with pytest.raises(UserError, match="--port"):
            playground.serve(
                playground.build_page(models, names={"base": "a", "tuned": "b"}),
                port=int(address.rstrip("/").rpartition(":")[2]),
                block=False,
            )
        page, complaints, foreign = open_page(address)
        page.set_input_files(
            "#recording input[type=file]", UTTERANCE.audio_filepath, timeout=60_000
        )
        page.wait_for_selector("#tuned ruby", timeout=60_000)
        heard = {
            kind: [w.text for w in playground.words_of(models[kind], UTTERANCE.audio_filepath)]
            for kind in models
        }
        for kind, words in heard.items():
            assert (
                page.eval_on_selector_all(
                    f"#{kind} ruby", "all => all.map(e => e.firstChild.textContent)"
                )
                == words
            )
            assert page.eval_on_selector_all(
                f"#{kind} rt", "all => all.map(e => parseFloat(e.textContent) >= 0)"
            ) == [True] * len(words)
        assert "of" in page.inner_text("#summary") and "words differ" in page.inner_text("#summary")
        back = "e => getComputedStyle(e).backgroundColor"
        marked = page.eval_on_selector("#tuned .only", back)
        assert marked != page.eval_on_selector(
            "#tuned .transcript", back
        ) and marked != page.eval_on_selector("#base .only", back)
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert (complaints, foreign) == ([], [])
    finally:
        built.close()
        gradio.close_all()

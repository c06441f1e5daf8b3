"""Each layout, written as its makers write it, comes out as the utterances that it holds."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from parakeet_ft.data.corpora.common_voice import read_common_voice
from parakeet_ft.data.corpora.ctm import read_ctm
from parakeet_ft.data.corpora.folder import read_folder
from parakeet_ft.data.corpora.kaldi import read_kaldi
from parakeet_ft.data.corpora.lhotse_cuts import read_lhotse_cuts
from parakeet_ft.data.corpora.librispeech import read_librispeech
from parakeet_ft.data.corpora.ljspeech import read_ljspeech
from parakeet_ft.data.corpora.nemo_manifest import read_manifests, split_names
from parakeet_ft.data.corpora.stm import read_stm
from parakeet_ft.data.corpora.subtitles import merge_lines, read_subtitles
from parakeet_ft.data.corpora.table import read_table
from parakeet_ft.data.corpora.textgrid import parse_textgrid, read_textgrids
from parakeet_ft.errors import UserError


def write(path, text, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def sound(path, seconds=1.0, rate_hz=8000):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.sin(np.arange(int(seconds * rate_hz)) / 5), rate_hz)
    return str(path)


def brief(utterances, root):
    return [
        (u.audio_filepath.removeprefix(f"{root}/"), u.text, u.speaker, u.offset, u.duration)
        for u in utterances
    ]


TABLE = 'path,text,speaker,take\na.wav,"one, ""two""\nthree",ann,1\nsub/b.wav,four,,2\n'


def test_a_csv_keeps_quotes_newlines_and_further_columns(tmp_path):
    rows = list(read_table(write(tmp_path / "t.csv", TABLE)))
    assert brief(rows, tmp_path) == [
        ("a.wav", 'one, "two"\nthree', "ann", 0.0, 0.0),
        ("sub/b.wav", "four", None, 0.0, 0.0),
    ]
    assert [r.extra for r in rows] == [{"take": "1"}, {"take": "2"}]


def test_tsv_semicolons_json_lines_and_parquet_give_the_same_utterances(tmp_path):
    import pandas

    records = [
        {"path": "a.wav", "text": "one", "speaker": "ann"},
        {"path": "b.wav", "text": 'it\'s "two"', "speaker": "bob"},
    ]
    write(
        tmp_path / "t.tsv",
        "path\ttext\tspeaker\n" + "".join("\t".join(r.values()) + "\n" for r in records),
    )
    write(tmp_path / "s.csv", '\ufeffpath;text;speaker\na.wav;one;ann\nb.wav;"it\'s ""two""";bob\n')
    write(tmp_path / "t.jsonl", "".join(json.dumps(r) + "\n" for r in records))
    pandas.DataFrame(records).to_parquet(tmp_path / "t.parquet")
    expected = [("a.wav", "one", "ann", 0.0, 0.0), ("b.wav", 'it\'s "two"', "bob", 0.0, 0.0)]
    for name in ("t.tsv", "s.csv", "t.jsonl", "t.parquet"):
        assert brief(read_table(tmp_path / name), tmp_path) == expected, name


def test_offset_duration_and_language_are_understood(tmp_path):
    (row,) = read_table(
        write(
            tmp_path / "t.csv",
            "audio_filepath,sentence,offset,duration,language\na.wav,x,1.5,2.25,de\n",
        )
    )
    assert (row.offset, row.duration, row.extra) == (1.5, 2.25, {"lang": "de"})


def test_a_bad_row_is_marked_and_the_others_are_read(tmp_path):
    rows = list(
        read_table(
            write(
                tmp_path / "t.csv",
                "path,text,duration\n,x,\na.wav\nb.wav,y,long\nc.wav,z,1,2,3\nd.wav,w,1\n",
            )
        )
    )
    assert [r.extra.get("bad_row", "-").split(",")[0] for r in rows] == [
        "no path",
        "no text",
        "duration is 'long'",
        "2 cells more than the header has; quote texts that hold the delimiter",
        "-",
    ]


def test_a_table_in_latin_1_is_read_with_its_encoding(tmp_path):
    path = write(tmp_path / "t.csv", "path,text\na.wav,für\n", "latin-1")
    assert next(read_table(path, encoding="latin-1")).text == "für"
    assert "\udcfc" in next(read_table(path)).text


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (
            "path,words\na,b\n",
            {},
            "no column for the text; it has 'path', 'words'. Name it with --text-column",
        ),
        ("path,text\na,b\n", {"speaker_column": "who"}, "no column 'who'"),
    ],
)
def test_a_missing_column_is_named(tmp_path, content, options, message):
    with pytest.raises(UserError) as error:
        list(read_table(write(tmp_path / "t.csv", content), **options))
    assert message in str(error.value)


def test_a_folder_pairs_audio_with_texts(tmp_path):
    sound(tmp_path / "ann" / "a.wav")
    sound(tmp_path / "bob_1.flac")
    write(tmp_path / "ann" / "a.txt", "hello\n")
    assert brief(read_folder(tmp_path, speaker_from="folder"), tmp_path) == [
        ("bob_1.flac", "", tmp_path.name, 0.0, 0.0),
        ("ann/a.wav", "hello\n", "ann", 0.0, 0.0),
    ]
    assert [u.speaker for u in read_folder(tmp_path, speaker_from="prefix")] == ["bob", "a"]


def test_librispeech_gives_speakers_and_splits(tmp_path):
    write(
        tmp_path / "train-clean-100" / "19" / "198" / "19-198.trans.txt",
        "19-198-0000 CHAPTER ONE\n19-198-0001 IT WAS\n",
    )
    write(tmp_path / "test-other" / "7" / "1" / "7-1.trans.txt", "7-1-0000 NO\n")
    found = list(read_librispeech(tmp_path))
    assert brief(found, tmp_path) == [
        ("test-other/7/1/7-1-0000.flac", "NO", "7", 0.0, 0.0),
        ("train-clean-100/19/198/19-198-0000.flac", "CHAPTER ONE", "19", 0.0, 0.0),
        ("train-clean-100/19/198/19-198-0001.flac", "IT WAS", "19", 0.0, 0.0),
    ]
    assert [u.extra["split"] for u in found] == ["test", "train", "train"]
    with pytest.raises(UserError, match=r"no \*\.trans\.txt"):
        list(read_librispeech(write(tmp_path / "empty" / "file", "").parent))


def test_ljspeech_takes_the_normalised_text(tmp_path):
    write(tmp_path / "metadata.csv", 'LJ1|in 1455, "so"|in fourteen, "so"\nLJ2|two\nbroken\n')
    found = list(read_ljspeech(tmp_path))
    assert brief(found[:2], tmp_path) == [
        ("wavs/LJ1.wav", 'in fourteen, "so"', "LJ", 0.0, 0.0),
        ("wavs/LJ2.wav", "two", "LJ", 0.0, 0.0),
    ]
    assert (
        next(read_ljspeech(tmp_path, raw_text=True)).text == 'in 1455, "so"'
        and "bad_row" in found[2].extra
    )


def test_common_voice_gives_speakers_and_its_own_splits(tmp_path):
    for name in ("train", "dev", "test"):
        write(
            tmp_path / f"{name}.tsv",
            f'client_id\tpath\tsentence\tage\tlocale\nid{name}\t{name}.mp3\tsay "{name}\t\teu\n',
        )
    found = list(read_common_voice(tmp_path))
    assert brief(found, tmp_path)[0] == ("clips/train.mp3", 'say "train', "idtrain", 0.0, 0.0)
    assert [u.extra for u in found] == [
        {"lang": "eu", "split": s} for s in ("train", "dev", "test")
    ]
    with pytest.raises(UserError, match=r"lacks validated\.tsv; it has dev, test, train"):
        list(read_common_voice(tmp_path, tables=["validated"]))


def test_kaldi_segments_cut_recordings(tmp_path):
    write(tmp_path / "wav.scp", "r1 r1.wav\nr2 /abs/r2.wav\n")
    write(tmp_path / "text", "u1 hello there\nu2 bye\nu3 lost\nu4 nowhere\n")
    write(tmp_path / "segments", "u1 r1 0.5 2.0\nu2 r2 1 -1\nu4 r9 0 1\n")
    write(tmp_path / "utt2spk", "u1 ann\nu2 bob\n")
    found = list(read_kaldi(tmp_path, audio_root=tmp_path))
    assert brief(found[:2], tmp_path) == [
        ("r1.wav", "hello there", "ann", 0.5, 1.5),
        ("/abs/r2.wav", "bye", "bob", 1.0, 0.0),
    ]
    assert [u.extra.get("bad_row") for u in found[2:]] == [
        "no usable line in segments",
        "r9 is not in wav.scp",
    ]


def test_a_tab_ends_a_kaldi_key_before_a_text_of_several_words(tmp_path):
    write(tmp_path / "wav.scp", "u1\tWAVE/u 1.wav\nu2   b.wav\n")
    write(tmp_path / "text", "u1\twe call it\tbear\nu2 \t bye\n")
    write(tmp_path / "utt2spk", "u1\tann\nu2\tbob\n")
    assert brief(read_kaldi(tmp_path, audio_root=tmp_path), tmp_path) == [
        ("WAVE/u 1.wav", "we call it\tbear", "ann", 0.0, 0.0),
        ("b.wav", "bye", "bob", 0.0, 0.0),
    ]


def test_kaldi_commands_run_only_when_allowed(tmp_path):
    from parakeet_ft.data.audio import decode

    path = sound(tmp_path / "a.wav")
    write(tmp_path / "wav.scp", f"u1 cat '{path}' |\n")
    write(tmp_path / "text", "u1 hello\n")
    with pytest.raises(UserError, match="--allow-pipes"):
        list(read_kaldi(tmp_path))
    (utterance,) = read_kaldi(tmp_path, allow_pipes=True)
    samples, rate_hz = decode(utterance.pipe)
    assert (len(samples), rate_hz) == (8000, 8000)


def test_lhotse_cuts_are_read_as_lhotse_writes_them(tmp_path):
    lhotse = pytest.importorskip("lhotse")
    recording = lhotse.Recording.from_file(sound(tmp_path / "long.wav", 4.0))
    segments = [
        lhotse.SupervisionSegment(
            id="s1",
            recording_id="long",
            start=1.0,
            duration=1.5,
            text="one",
            speaker="ann",
            language="en",
        ),
        lhotse.SupervisionSegment(
            id="s2", recording_id="long", start=3.0, duration=0.5, text="two"
        ),
    ]
    cut = lhotse.MonoCut(
        id="c", start=0.0, duration=4.0, channel=0, recording=recording, supervisions=segments
    )
    cuts = lhotse.CutSet.from_cuts(
        [
            *lhotse.CutSet.from_cuts([cut]).trim_to_supervisions(),
            cut.truncate(offset=0.5).with_id("d"),
            cut.pad(6.0).with_id("e"),
        ]
    )
    cuts.to_file(tmp_path / "cuts.jsonl.gz")
    found = list(read_lhotse_cuts(tmp_path / "cuts.jsonl.gz"))
    assert (
        brief(found[:4], tmp_path)
        == [("long.wav", "one", "ann", 1.0, 1.5), ("long.wav", "two", None, 3.0, 0.5)] * 2
    )
    assert (
        found[0].extra == {"id": "s1", "lang": "en"}
        and "expected a cut of one audio file" in found[4].extra["bad_row"]
    )


def test_lhotse_cuts_that_are_no_cuts_are_refused(tmp_path):
    with gzip.open(tmp_path / "c.jsonl.gz", "wt") as out:
        out.write("hello\n")
    with pytest.raises(UserError, match="not a Lhotse cut manifest"):
        list(read_lhotse_cuts(tmp_path / "c.jsonl.gz"))


SRT = """1
00:00:01,000 --> 00:00:02,000
<i>It was</i>

2
00:00:02,200 --> 00:00:03,500
a dark night.

3
00:00:04,000 --> 00:00:05,000
[thunder]

4
00:00:06,000 --> 00:00:07,000
- Who is there?
"""


def test_subtitles_are_joined_to_sentences_without_sounds(tmp_path):
    write(tmp_path / "talk.en.srt", SRT)
    write(tmp_path / "other.vtt", "WEBVTT\n\n00:01.000 --> 00:02.000\nYes.\n")
    path = sound(tmp_path / "talk.wav", 8.0)
    found = list(read_subtitles(tmp_path))
    assert "no recording" in found[0].extra["bad_row"]
    assert [(u.audio_filepath, u.text, u.offset, u.duration) for u in found[1:]] == [
        (path, "It was a dark night.", 0.9, 2.7),
        (path, "Who is there?", 5.9, 1.2),
    ]


def test_subtitle_lines_are_not_joined_over_pauses_or_beyond_the_length():
    lines = [(0.0, 4.0, "a"), (4.0, 8.0, "b"), (8.0, 12.0, "c"), (20.0, 21.0, "d")]
    assert list(merge_lines(lines, merge_seconds=9.0)) == [
        (0.0, 8.0, "a b"),
        (8.0, 12.0, "c"),
        (20.0, 21.0, "d"),
    ]


LONG = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 2.5
tiers? <exists>
size = 2
item []:
    item [1]:
        class = "IntervalTier"
        name = "ann"
        xmin = 0
        xmax = 2.5
        intervals: size = 2
        intervals [1]:
            xmin = 0
            xmax = 1.25
            text = "say ""ah"" 3 times"
        intervals [2]:
            xmin = 1.25
            xmax = 2.5
            text = ""
    item [2]:
        class = "TextTier"
        name = "points"
        xmin = 0
        xmax = 2.5
        points: size = 1
        points [1]:
            number = 1
            mark = "x"
"""
SHORT = (
    '"ooTextFile"\n"TextGrid"\n0\n2.5\n<exists>\n1\n"IntervalTier"\n"ann"\n0\n2.5\n2\n'
    '0\n1.25\n"say ""ah"" 3 times"\n1.25\n2.5\n""\n'
)


@pytest.mark.parametrize(
    "text",
    [LONG, 'File type = "ooTextFile"\nObject class = "TextGrid"\n\n' + SHORT.split("\n", 2)[2]],
)
def test_both_forms_of_textgrid_are_read(text):
    assert parse_textgrid(text, where="x") == [
        ("ann", [(0.0, 1.25, 'say "ah" 3 times'), (1.25, 2.5, "")])
    ]


def test_textgrids_in_utf_16_give_intervals_with_text(tmp_path):
    path = sound(tmp_path / "talk.wav", 3.0)
    write(tmp_path / "talk.TextGrid", LONG.replace("times", "mäl"), "utf-16")
    found = list(read_textgrids(tmp_path, speaker_from_tier=True))
    assert (
        brief(found, tmp_path) == [("talk.wav", 'say "ah" 3 mäl', "ann", 0.0, 1.25)]
        and found[0].audio_filepath == path
    )
    with pytest.raises(UserError, match="tier 'bob'; there are 'ann'"):
        list(read_textgrids(tmp_path, tier="bob"))


def test_stm_lines_become_segments(tmp_path):
    path = sound(tmp_path / "talk.wav", 9.0)
    write(
        tmp_path / "t.stm",
        ";; comment\ntalk 1 ann 0.5 2.0 <o,f0,female> hello there\ntalk 1 x 2 3 "
        "ignore_time_segment_in_scoring\ntalk "
        "1 bob 3 4.5 bye\n"
        "gone 1 bob 3 4 x\ntalk 1\n",
    )
    found = list(read_stm(tmp_path / "t.stm"))
    assert [(u.audio_filepath, u.text, u.speaker, u.offset, u.duration) for u in found[:2]] == [
        (path, "hello there", "ann", 0.5, 1.5),
        (path, "bye", "bob", 3.0, 1.5),
    ]
    assert ["bad_row" in u.extra for u in found] == [False, False, True, True]


def test_ctm_words_are_gathered_up_to_pauses_and_to_the_length(tmp_path):
    sound(tmp_path / "talk.wav", 9.0)
    words = [("a", 0.5, 0.3), ("b", 0.9, 0.3), ("c", 2.5, 0.5), ("d", 3.0, 0.5), ("e", 3.5, 0.5)]
    write(
        tmp_path / "t.ctm",
        "".join(f"talk 1 {begin} {length} {word} 0.9\n" for word, begin, length in words)
        + "talk 1 x\n",
    )
    found = list(read_ctm(tmp_path / "t.ctm", max_seconds=1.2))
    assert [(u.text, u.offset, u.duration) for u in found[:3]] == [
        ("a b", 0.4, 0.9),
        ("c d", 2.4, 1.2),
        ("e", 3.4, 0.7),
    ]
    assert "bad_row" in found[3].extra


def test_hugging_face_rows_come_with_their_bytes_as_files(tmp_path):
    datasets = pytest.importorskip("datasets")
    from parakeet_ft.data.corpora.hugging_face import load_hugging_face, read_hugging_face

    raw = Path(sound(tmp_path / "a.wav")).read_bytes()
    features = datasets.Features(
        {
            "audio": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
            "sentence": datasets.Value("string"),
            "speaker_id": datasets.Value("int64"),
            "topic": datasets.Value("string"),
        }
    )
    part = datasets.Dataset.from_list(
        [
            {
                "audio": {"bytes": raw, "path": "x.wav"},
                "sentence": "hi",
                "speaker_id": 7,
                "topic": "t",
            }
        ],
        features=features,
    )
    datasets.DatasetDict({"train": part, "validation": part}).save_to_disk(str(tmp_path / "saved"))
    parts = load_hugging_face(str(tmp_path / "saved"))
    found = list(read_hugging_face(parts, keep_audio_in=tmp_path / "source", audio_column="audio"))
    assert [(u.text, u.speaker, u.extra) for u in found] == [
        ("hi", "7", {"topic": "t", "split": "train"}),
        ("hi", "7", {"topic": "t", "split": "dev"}),
    ]
    assert Path(found[0].audio_filepath).read_bytes() == raw
    with pytest.raises(UserError, match="Cannot load the dataset"):
        load_hugging_face(str(tmp_path / "nothing"))


def test_manifests_keep_their_splits_and_mark_broken_lines(tmp_path):
    write(
        tmp_path / "train.json",
        '{"audio_filepath": "a.wav", "duration": 1, "text": "x", "k": 1}\n{"audio_filepath": '
        '"b.wav"\n',
    )
    write(tmp_path / "my_val.json", '{"audio_filepath": "/c.wav", "duration": 2, "text": "y"}\n')
    paths = [tmp_path / "train.json", tmp_path / "my_val.json"]
    assert split_names(paths) == ["train", "dev"]
    found = list(read_manifests(paths, splits=split_names(paths)))
    assert found[0].audio_filepath == str(tmp_path / "a.wav") and found[0].extra == {
        "k": 1,
        "split": "train",
    }
    assert "line 2 is not JSON" in found[1].extra["bad_row"] and found[2].extra["split"] == "dev"


def test_a_stray_quotation_mark_costs_its_own_row_and_no_other(tmp_path):
    rows = [f"{i}.wav,sentence number {i}" for i in range(20)]
    for place, cell in (
        (3, '3.wav,"he said'),
        (3, '3.wav,"he" said'),
        (0, '0.wav,"'),
        (19, '19.wav,"end'),
    ):
        damaged = rows[:place] + [cell] + rows[place + 1 :]
        write(tmp_path / "t.csv", "path,text\n" + "\n".join(damaged) + "\n")
        found = list(read_table(tmp_path / "t.csv"))
        assert len(found) == 20
        assert [i for i, u in enumerate(found) if "bad_row" in u.extra] == [place]
        assert f"line {place + 2}" in found[place].extra["bad_row"]
        assert all(u.text == f"sentence number {i}" for i, u in enumerate(found) if i != place)


def test_two_stray_quotation_marks_that_close_each_other_swallow_no_row(tmp_path):
    write(tmp_path / "t.csv", 'path,text\n0.wav,"one\n1.wav,two\n2.wav,three"\n3.wav,four\n')
    found = list(read_table(tmp_path / "t.csv"))
    # The last of them has its mark within the cell, where it is part of the text.
    assert [u.text for u in found] == ["", "two", 'three"', "four"]
    assert "takes in the rows below it" in found[0].extra["bad_row"]


def test_a_quoted_text_of_several_lines_is_one_row(tmp_path):
    write(tmp_path / "t.csv", 'path,text\n0.wav,"one\nand, two\n""three"""\n1.wav,four\n')
    assert [u.text for u in read_table(tmp_path / "t.csv")] == ['one\nand, two\n"three"', "four"]


def test_a_stray_quotation_mark_in_a_large_table_is_a_bad_row(tmp_path):
    rows = [
        f"{i}.wav,a sentence of some length that fills the table, number {i}".replace(
            "table,", "table"
        )
        for i in range(4000)
    ]
    rows[7] = '7.wav,"opened'
    write(tmp_path / "t.csv", "path,text\n" + "\n".join(rows) + "\n")
    found = list(read_table(tmp_path / "t.csv"))
    assert len(found) == 4000 and [i for i, u in enumerate(found) if "bad_row" in u.extra] == [7]


@pytest.mark.parametrize(
    ("duration", "offset"),
    [
        ("-2", ""),
        ("nan", ""),
        ("inf", ""),
        ("0", ""),
        ("1", "-1"),
        ("1", "nan"),
        ("1", "inf"),
        ("1_0", ""),
        ("1,5", ""),
        ("1", "x"),
    ],
)
def test_a_time_that_is_no_time_is_a_reason_and_not_the_whole_file(tmp_path, duration, offset):
    write(tmp_path / "t.csv", f'path,text,duration,offset\na.wav,x,"{duration}","{offset}"\n')
    (utterance,) = read_table(tmp_path / "t.csv")
    assert "expected seconds" in utterance.extra["bad_row"]


def test_a_column_that_stands_twice_is_refused(tmp_path):
    write(tmp_path / "t.csv", "path,text,text\na.wav,x,y\n")
    with pytest.raises(UserError, match="the column 'text' twice"):
        list(read_table(tmp_path / "t.csv"))


def test_an_encoding_that_does_not_exist_is_named(tmp_path):
    write(tmp_path / "t.csv", "path,text\na.wav,x\n")
    with pytest.raises(UserError, match="--encoding nope: Python knows no such encoding"):
        list(read_table(tmp_path / "t.csv", encoding="nope"))


BAD_LINES = {
    "deep": "[" * 100_000,
    "digits": '{"path": "b.wav", "text": "x", "n": %s}' % ("9" * 5000),
    "surrogate": r'{"path": "b.wav", "text": "\ud800"}',
    "twice": '{"path": "b.wav", "text": "x", "text": "y"}',
    "list": '{"path": "b.wav", "text": ["x"]}',
    "truth": '{"path": "b.wav", "text": true}',
    "infinite": '{"path": "b.wav", "text": 1e999}',
    "cut": '{"path": "b.wav", "te',
    "words": "hello",
}


@pytest.mark.parametrize("line", BAD_LINES.values(), ids=BAD_LINES)
@pytest.mark.parametrize("first", [False, True])
def test_one_bad_line_of_a_json_table_is_a_row_with_a_reason(tmp_path, line, first):
    good = [f'{{"path": "{i}.wav", "text": "number {i}"}}' for i in range(3)]
    lines = [line, *good] if first else [*good, line]
    write(tmp_path / "t.jsonl", "\n".join(lines) + "\n")
    found = list(read_table(tmp_path / "t.jsonl"))
    assert len(found) == 4 and sum("bad_row" in u.extra for u in found) == 1
    assert "bad_row" in found[0 if first else 3].extra


@pytest.mark.parametrize(
    "line",
    [v for k, v in BAD_LINES.items() if k not in ("list", "truth", "infinite")],
    ids=[k for k in BAD_LINES if k not in ("list", "truth", "infinite")],
)
def test_one_bad_line_of_a_manifest_is_a_row_with_a_reason_and_one_message_before_training(
    tmp_path, line
):
    from parakeet_ft.data.manifest import ManifestError, read_manifest

    line = line.replace('"path"', '"duration": 1.0, "audio_filepath"')
    write(
        tmp_path / "m.jsonl",
        '{"audio_filepath": "a.wav", "duration": 1.0, "text": "a"}\n' + line + "\n",
    )
    first, second = read_manifests([tmp_path / "m.jsonl"])
    assert first.text == "a" and "line 2" in second.extra["bad_row"]
    with pytest.raises(ManifestError, match="line 2"):
        read_manifest(tmp_path / "m.jsonl")


def test_a_kaldi_key_with_two_meanings_is_refused(tmp_path):
    write(tmp_path / "wav.scp", "u1 a.wav\nu1 b.wav\n")
    write(tmp_path / "text", "u1 hello\n")
    with pytest.raises(UserError, match="names u1 twice"):
        list(read_kaldi(tmp_path))


@pytest.mark.parametrize("times", ["nan 2", "0 nan", "-3 2", "0 inf", "2 1", "1 1", "x 1"])
def test_segments_with_impossible_times_are_bad_rows(tmp_path, times):
    write(tmp_path / "wav.scp", "r1 r1.wav\n")
    write(tmp_path / "text", "u1 hello there\n")
    write(tmp_path / "segments", f"u1 r1 {times}\n")
    (utterance,) = read_kaldi(tmp_path)
    assert "no usable line in segments" in utterance.extra["bad_row"]
    write(tmp_path / "t.stm", f"r1 1 ann {times} hello\n")
    (utterance,) = read_stm(tmp_path / "t.stm")
    assert "bad_row" in utterance.extra and utterance.duration == 0


def lhotse_cut(*, kind="file", source='"a.wav"', start="0", said='"text": "x"') -> str:
    return (
        f'{{"type": "MonoCut", "id": "c", "start": 0, "duration": 1, "recording": {{"sources": '
        f'[{{"type": "{kind}", "source": {source}}}]}}, '
        f'"supervisions": [{{"start": {start}, "duration": 1, {said}}}]}}'
    )


@pytest.mark.parametrize(
    "cut",
    [
        '{"type": "MonoCut"}',
        "[1]",
        '"x"',
        '{"type": "MonoCut", "recording": {"sources": "x"}}',
        lhotse_cut(source="5"),
        lhotse_cut(start="NaN"),
        lhotse_cut(start="2"),
        lhotse_cut(kind="command"),
        lhotse_cut(said='"text": 5'),
        lhotse_cut(said='"speaker": ["x"]'),
    ],
)
def test_a_cut_that_is_not_as_lhotse_writes_it_is_a_bad_row(tmp_path, cut):
    write(tmp_path / "cuts.jsonl", f"{cut}\n{lhotse_cut()}\n")
    bad, found = read_lhotse_cuts(tmp_path / "cuts.jsonl")
    assert "line 1" in bad.extra["bad_row"] and found.text == "x" and found.duration == 1


def test_a_recording_whose_name_stands_in_two_folders_is_nobodys(tmp_path):
    from parakeet_ft.data.corpora.folder import recording_of, recordings_by_name

    for name in ("a/talk.wav", "b/talk.wav", "a/other.wav", "a/other.flac"):
        write(tmp_path / name, "")
    found = recordings_by_name(tmp_path)
    assert "talk" not in found and "other" in found
    # One that lies beside its transcript is meant all the same.
    for folder in ("a", "b"):
        expected = str(tmp_path / folder / "talk.wav")
        assert recording_of(tmp_path / folder / "talk.en.srt", found) == expected


def test_one_damaged_textgrid_or_subtitle_is_a_bad_row(tmp_path):
    sound(tmp_path / "a.wav")
    write(tmp_path / "a.TextGrid", "hello")
    (utterance,) = read_textgrids(tmp_path)
    assert "is not a TextGrid" in utterance.extra["bad_row"]


def test_a_table_that_was_cut_off_says_so_of_its_last_row(tmp_path):
    write(tmp_path / "t.csv", "path,text,speaker\n0.wav,one two,ann\n1.wav,three fo")
    first, last = read_table(tmp_path / "t.csv")
    assert first.text == "one two" and "the table ends within this row" in last.extra["bad_row"]
    # A row that is short, but ended, is no sign of a cut, nor is a last line without its end.
    write(tmp_path / "t.csv", "path,text,speaker\n0.wav,one two\n1.wav,three four,ann")
    assert [u.text for u in read_table(tmp_path / "t.csv")] == ["one two", "three four"]
    assert not any("bad_row" in u.extra for u in read_table(tmp_path / "t.csv"))

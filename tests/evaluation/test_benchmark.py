"""The leaderboard's sets, from a local stand-in of the hub's layout: a configuration for each
corpus, Parquet files with audio inside.
"""

import io
import shutil

import datasets
import numpy
import pytest
import soundfile

from parakeet_ft.errors import UserError
from parakeet_ft.evaluation import request
from parakeet_ft.evaluation.benchmark import fetch_set
from parakeet_ft.run.composition import compose
from parakeet_ft.scoring.normalization import Normalizer

NAMES = [
    "ami",
    "earnings22",
    "gigaspeech",
    "librispeech_clean",
    "librispeech_other",
    "spgispeech",
    "tedlium",
    "voxpopuli",
]
SETS = compose("evaluate", ["benchmark=open_asr_leaderboard"])["benchmark"]["sets"]


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    """Two spoken utterances a set, one to be ignored and one of a filler alone, in the columns of
    hf-audio/esb-datasets-test-only-sorted.
    """
    root, front = tmp_path_factory.mktemp("esb"), ["---", "configs:"]
    for number, config in enumerate(dict.fromkeys(s["config"] for s in SETS)):
        front += [f"- config_name: {config}", "  data_files:"]
        for split in (s["split"] for s in SETS if s["config"] == config):
            rows = []
            for i, text in enumerate(
                [
                    "Mr. Smith's COLOUR, please.",
                    f"twenty {config} {split}",
                    "ignore time segment in scoring",
                    "Uh, hmm.",
                ]
            ):
                wave = io.BytesIO()
                soundfile.write(
                    wave,
                    0.1
                    * numpy.random.default_rng([number, i, len(split)]).standard_normal(
                        8000 * (i + 1)
                    ),
                    16000,
                    format="WAV",
                )
                rows.append(
                    {
                        "audio": {"bytes": wave.getvalue(), "path": f"{i}.wav"},
                        "dataset": config,
                        "text": text,
                        "id": f"{config}/{split}/{i}.wav",
                        "audio_length_s": (i + 1) / 2,
                    }
                )
            (root / config).mkdir(exist_ok=True)
            features = datasets.Features(
                {
                    "audio": datasets.Audio(16000),
                    "dataset": datasets.Value("string"),
                    "text": datasets.Value("string"),
                    "id": datasets.Value("string"),
                    "audio_length_s": datasets.Value("float64"),
                }
            )
            plain = datasets.Features(
                features
                | {"audio": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}}
            )
            datasets.Dataset.from_list(rows, features=plain).cast_column(
                "audio", datasets.Audio(16000, decode=False)
            ).to_parquet(root / config / f"{split}-00000-of-00001.parquet")
            front += [f"  - split: {split}", f"    path: {config}/{split}-*"]
    (root / "README.md").write_text("\n".join([*front, "---", ""]))
    return root


def test_the_configuration_names_the_leaderboards_eight_sets():
    assert [s["name"] for s in SETS] == NAMES


def test_all_eight_sets_are_read_and_what_is_not_scored_is_left_out(
    stand_in, tmp_path, monkeypatch
):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    asked = request.read_request(
        compose(
            "evaluate",
            request.expand_shorthand(
                [
                    "benchmark=open_asr_leaderboard",
                    f"benchmark.path={stand_in}",
                    f"out={tmp_path / 'out'}",
                ]
            ),
        )
    )
    assert list(asked.sets) == NAMES
    for one in SETS:
        found = asked.sets[one["name"]]
        assert [u.text for u in found] == [
            "Mr. Smith's COLOUR, please.",
            f"twenty {one['config']} {one['split']}",
        ]
        assert [u.duration for u in found] == [0.5, 1.0]


def test_a_set_is_fetched_once(stand_in, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(stand_in, copy)
    how = {
        "config": "tedlium",
        "split": "test",
        "folder": tmp_path / "out",
        "normalizer": Normalizer("en"),
        "ignored_references": [],
    }
    first = fetch_set(str(copy), **how)
    assert len(first) == 3
    shutil.rmtree(copy)
    assert fetch_set(str(copy), **how) == first


def test_a_dataset_that_cannot_be_had_is_told_in_words(stand_in, tmp_path):
    with pytest.raises(UserError, match="Cannot load the dataset"):
        fetch_set(
            str(stand_in),
            config="nothing",
            split="test",
            folder=tmp_path,
            normalizer=str,
            ignored_references=[],
        )

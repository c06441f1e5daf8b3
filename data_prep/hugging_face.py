"""A dataset of the Hugging Face library, a folder of save_to_disk or a name on
the hub -> audio and manifests.

    python data_prep/hugging_face.py facebook/voxpopuli --config pl \\
        --out data/voxpopuli-pl
    python data_prep/hugging_face.py saved_dataset/ --out data/mine

Its splits train, validation and test are kept if it has several.
"""

from pathlib import Path

from parakeet_ft.data.command import absolute, make_parser, run
from parakeet_ft.data.corpora.hugging_face import AudioTar, load_hugging_face, read_hugging_face
from parakeet_ft.errors import exit_on_user_error


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("dataset")
    parser.add_argument("--config", metavar="NAME", help="as the hub calls it, often the language")
    parser.add_argument("--split", metavar="NAME", help="one of its splits; default: all")
    for column in ("audio", "text", "speaker"):
        parser.add_argument(f"--{column}-column", metavar="NAME")
    with exit_on_user_error():
        args = parser.parse_args()
        parts = load_hugging_face(args.dataset, config=args.config, split=args.split)
        source_audio = Path(args.out) / "source"
        keep = AudioTar(source_audio.with_suffix(".tar")) if args.shards else source_audio

        def read():
            return read_hugging_face(
                parts,
                keep_audio_in=keep,
                audio_column=args.audio_column,
                text_column=args.text_column,
                speaker_column=args.speaker_column,
            )

        run(
            lambda: absolute(read()), args, root=source_audio, title=f"{args.dataset} -> {args.out}"
        )


if __name__ == "__main__":
    main()

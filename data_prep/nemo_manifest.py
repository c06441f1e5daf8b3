"""Existing NeMo manifests -> audio at 16 kHz and manifests with real durations,
filtered and split anew.

    python data_prep/nemo_manifest.py old/train.json old/dev.json \\
        --out data/mine

To look only, use check.py.
"""

from pathlib import Path

from parakeet_ft.data.command import absolute, make_parser, run
from parakeet_ft.data.corpora.nemo_manifest import read_manifests
from parakeet_ft.errors import exit_on_user_error
from parakeet_ft.urls import without_secrets


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("manifests", nargs="+", type=without_secrets)
    with exit_on_user_error():
        args = parser.parse_args()
        run(
            lambda: absolute(read_manifests(args.manifests)),
            args,
            root=Path(args.manifests[0]).parent,
            title=f"{' '.join(args.manifests)} -> {args.out}",
        )


if __name__ == "__main__":
    main()

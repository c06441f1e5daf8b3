"""Fetch checkpoints into the Hugging Face cache, for machines without a network.

    python recipes/download.py parakeet_ctc_0.6b         a name all recipes know
    python recipes/download.py nvidia/parakeet-tdt-1.1b  a hub id

Run it once where there is a network, such as a login node. HF_HOME names the
folder of the cache, which the other nodes must see. What is there already is
not asked for again, here or by any other recipe.
"""

import argparse

from parakeet_ft.errors import exit_on_user_error
from parakeet_ft.model import archive, source


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", metavar="MODEL")
    with exit_on_user_error():
        for model in parser.parse_args().models:
            path = source.fetch(model)
            archive.check_archive(path)
            print(f"{model}: {path} ({path.stat().st_size / 1e9:.2f} GB)")


if __name__ == "__main__":
    main()

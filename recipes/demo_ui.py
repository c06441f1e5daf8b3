"""A page in the browser: a recording in, the base's and the tuned model's words
side by side, with times and what differs in colour.

    python recipes/demo_ui.py outputs/demo/latest/best.nemo
    python recipes/demo_ui.py best.nemo nvidia/parakeet-ctc-0.6b --port 7860

Without a base, the checkpoint that run.json beside the tuned model names is
taken. The page needs no network, except with --share. What libraries print goes
to outputs/demo_ui.log.
"""

import argparse
import importlib.util
import sys
from pathlib import Path

from parakeet_ft.errors import UserError, exit_on_user_error
from parakeet_ft.model.source import check_source
from parakeet_ft.publishing.playground import base_beside, build_page, serve

LOG = Path("outputs") / "demo_ui.log"


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tuned", help="the tuned .nemo")
    parser.add_argument(
        "base",
        nargs="?",
        help="the model to compare with: a .nemo, a hub id or a name; default: what run.json names",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; 0.0.0.0 lets others in. Default %(default)s",
    )
    parser.add_argument("--port", type=int, help="default: the first free one from 7860")
    parser.add_argument(
        "--share",
        action="store_true",
        help="let Gradio's servers make a public link; off by default",
    )
    return parser.parse_args(argv)


def choose_models(tuned: str, base: str | None) -> dict[str, str]:
    """Sources by kind, base first, all checked; only the tuned one if nothing tells its base.
    Raises UserError.
    """
    check_source(tuned)
    if base is None and (base := base_beside(Path(tuned))):
        try:
            check_source(base)
        except UserError as error:
            print(f"The base that run.json names is left out: {error}", file=sys.stderr)
            base = None
    elif base is None:
        print(
            "No base is given, and no run.json beside the model names one: only the tuned model is "
            "shown.",
            file=sys.stderr,
        )
    else:
        check_source(base)
    return ({"base": base} if base else {}) | {"tuned": tuned}


def main() -> None:
    arguments = parse(sys.argv[1:])
    if not importlib.util.find_spec("gradio"):
        raise UserError("The page needs Gradio: pip install 'parakeet-ft[ui]'.")
    sources = choose_models(arguments.tuned, arguments.base)
    from parakeet_ft.run.console import libraries_to

    with libraries_to(LOG) as terminal:
        from parakeet_ft.model.restore import restore

        models = {}
        for kind, source in sources.items():
            print(f"restoring {kind}: {source}", file=terminal)
            models[kind] = restore(source).eval()
        page = build_page(models, names=sources)
        address = serve(
            page, host=arguments.host, port=arguments.port, share=arguments.share, block=False
        )
        print(f"Open {address} in a browser; Ctrl-C ends.", file=terminal)
        page.block_thread()


if __name__ == "__main__":
    with exit_on_user_error():
        main()

"""Take the pictures of the documentation from a run: its report on a desk and on a phone, and the
page of recipes/demo_ui.py with an utterance uploaded.

    python docs/screenshots.py outputs/demo/latest

Writes report.webp, report_phone.webp and demo_ui.webp beside this file. Needs Chromium, playwright
and gradio.
"""

import argparse
import io
import json
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from parakeet_ft.model.restore import restore
from parakeet_ft.publishing.playground import base_beside, build_page, serve

FOLDER = Path(__file__).parent


def take(page, name: str) -> None:
    """Save what a browser's page shows beside this file."""
    image = Image.open(io.BytesIO(page.screenshot()))
    image.convert("RGB").save(FOLDER / f"{name}.webp", quality=80, method=6)
    print(
        f"{FOLDER / name}.webp  {image.width} x {image.height}  "
        f"{(FOLDER / f'{name}.webp').stat().st_size / 1000:.0f} kB"
    )


def main(run_dir: Path) -> None:
    report = json.loads((run_dir / "report.json").read_text())
    # An utterance that tuning mended, so that the picture shows what the page is for.
    shown = min(
        report["utterances"],
        key=lambda row: (row["errors_after"] - row["errors_before"], row["audio_filepath"]),
    )
    names = {"base": base_beside(run_dir / "best.nemo"), "tuned": str(run_dir / "best.nemo")}
    served = build_page(
        {kind: restore(source).eval() for kind, source in names.items()}, names=names
    )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        for name, width, height, scheme in (
            ("report", 1000, 1100, "light"),
            ("report_phone", 390, 844, "dark"),
        ):
            page = browser.new_page(
                viewport={"width": width, "height": height},
                device_scale_factor=1.5,
                color_scheme=scheme,
            )
            page.goto(f"file://{(run_dir / 'report.html').resolve()}", timeout=120_000)
            if name == "report_phone":
                page.evaluate("document.querySelector('#changed').scrollIntoView()")
            take(page, name)
        page = browser.new_page(viewport={"width": 1000, "height": 640}, device_scale_factor=1.5)
        page.goto(serve(served, block=False))
        page.set_input_files("#recording input[type=file]", shown["audio_filepath"], timeout=60_000)
        page.wait_for_selector("#tuned .transcript", timeout=60_000)
        page.wait_for_timeout(3000)  # the waveform is drawn some time after the transcripts
        take(page, "demo_ui")
        browser.close()
    served.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run_dir", type=Path, help="folder of a finished run")
    main(parser.parse_args().run_dir)

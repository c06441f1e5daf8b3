"""recipes/download.py: from the hub once, from the cache without a network, and in words where
neither has it.
"""

import subprocess
import sys

from tests.model.test_restore import ROOT, environment, hub  # noqa: F401


def download(environment, *names):
    return subprocess.run(
        [sys.executable, str(ROOT / "recipes" / "download.py"), *names],
        env=environment,
        capture_output=True,
        text=True,
    )


def test_a_checkpoint_is_downloaded_once_and_then_found_without_network(hub, tmp_path):  # noqa: F811
    online = environment(hub, tmp_path)
    offline = online | {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
    missing = download(offline, "parakeet_ctc_0.6b")
    assert (
        missing.returncode == 2
        and missing.stderr.startswith("error: ")
        and "HF_HUB_OFFLINE is set" in missing.stderr
    )
    first = download(online, "parakeet_ctc_0.6b")
    assert first.returncode == 0 and hub.downloads == 1, first.stderr
    again = download(offline, "nvidia/parakeet-ctc-0.6b")
    assert again.returncode == 0 and hub.downloads == 1, again.stderr
    assert (
        first.stdout.split(": ")[1] == again.stdout.split(": ")[1]
        and "parakeet-ctc-0.6b.nemo" in first.stdout
    )

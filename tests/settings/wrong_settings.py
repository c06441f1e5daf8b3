"""What wrong settings are told, and how soon.

    python tests/settings/wrong_settings.py

Each row is a command of its own. The last line is one JSON object.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WRONG = """
model.attention=ful
model.attention_context=[1,2,3]
model.source=null
trainer.strategy=ddpp
trainer.precision=bf17
logger.names=[foo]
evaluation.interpolation=[9.0]
evaluation.batch_seconds=-5
evaluation.language=english
data.num_workers=-1
data.train=[a,5]
data.test=5
data.replay=null
checkpoint.keep=0
optim.betas=[0.9]
optim.min_lr_ratio=7
optim.lr=true
optim.lr=1e10
optim.gradient_clip=nan
adaptation.lora_alpha=0
tokenizer.vocab_size=abc
launcher.nodes=2
launcher.seeds=5
name=../../x
~budget
--lr=5
""".split()


def main() -> None:
    rows = []
    print("| setting | told | seconds |\n| --- | --- | --- |")
    for setting in WRONG:
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            done = subprocess.run(
                [sys.executable, ROOT / "recipes" / "finetune.py", setting],
                cwd=folder,
                capture_output=True,
                text=True,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
            )
            seconds = time.perf_counter() - start
            left = list(Path(folder).iterdir())
        told = done.stderr.strip().splitlines()
        rows.append(done.returncode == 2 and len(told) == 1 and not left)
        print(f"| `{setting}` | {' / '.join(told)} | {seconds:.1f} |", flush=True)
    print(json.dumps({"settings": len(rows), "refused_in_one_line_with_2": sum(rows)}))


if __name__ == "__main__":
    main()

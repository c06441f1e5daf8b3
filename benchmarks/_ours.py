"""recipes/finetune.py as a user runs it, with the events that benchmarks/_stock.py prints (first
step, validations) and its speed; stops at a target.

python benchmarks/_ours.py --target-wer 0.5 -- data=demo budget.epochs=6
"""

import argparse
import json
import os
import runpy
import sys
import time
from pathlib import Path

STARTED = time.time()
ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--target-wer", type=float)
    parser.add_argument("--only-first-step", action="store_true")
    parser.add_argument("--started", type=float, default=STARTED)
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    sys.argv = [str(ROOT / "recipes" / "finetune.py"), *args.overrides]
    terminal = os.fdopen(
        os.dup(1), "w", buffering=1
    )  # the recipe sends what libraries print to its run.log

    def tell(event: str, **facts) -> None:
        print(
            json.dumps({"event": event, "seconds": round(time.time() - args.started, 2), **facts}),
            file=terminal,
        )

    from parakeet_ft.training import fine_tuner

    original = fine_tuner.FineTuner.on_validation_epoch_end

    clock: dict[str, float] = {"audio": 0.0}

    def on_train_batch_end(self, outputs, batch, batch_index) -> None:
        if "begun" in clock:
            clock["audio"] += float(batch[1].sum()) / self.model.preprocessor._sample_rate
        if self.global_step == 1 and "begun" not in clock:
            clock["begun"] = time.time()
            tell("first_step")
            if args.only_first_step:
                os._exit(0)

    def on_validation_epoch_end(self) -> None:
        if self.global_step == self.settings["num_steps"]:
            tell(
                "trained",
                audio_seconds_per_second=round(clock["audio"] / (time.time() - clock["begun"]), 2),
            )
        original(self)
        tell("validation", step=self.global_step, val_wer=self.history[-1]["val_wer"])
        if args.target_wer is not None and self.history[-1]["val_wer"] <= args.target_wer:
            os._exit(0)

    fine_tuner.FineTuner.on_train_batch_end, fine_tuner.FineTuner.on_validation_epoch_end = (
        on_train_batch_end,
        on_validation_epoch_end,
    )
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()

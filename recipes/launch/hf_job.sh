#!/usr/bin/env bash
# A command of parakeet-ft as a Hugging Face Job, from the root of a clone; arguments are those of parakeet-ft.
#
#   DATA=me/corpus BUCKET=me/runs recipes/launch/hf_job.sh finetune model=parakeet_ctc_0.6b data.train=/data/train.jsonl data.validation=/data/dev.jsonl
#
# DATA is a dataset of the hub with manifests and audio, mounted at /data; BUCKET keeps outputs/. FLAVOR is the machine (hf jobs hardware), HOURS the
# longest that it runs; OPTIONS are more options of `hf jobs uv run`, such as --dry-run. `hf auth login` first.
set -eu
files=$(mktemp -d)
"${UV:-uv}" build --quiet --wheel --out-dir "$files"
cp constraints.txt recipes/launch/keep.sh "$files"
# shellcheck disable=SC2086
exec "${HF:-hf}" jobs uv run --flavor "${FLAVOR:-l4x1}" --timeout "${HOURS:-8}h" --secrets HF_TOKEN --python 3.11 \
    --volume "$files:/files" --volume "hf://datasets/$DATA:/data" --volume "hf://buckets/$BUCKET:/runs" ${OPTIONS:-} \
    recipes/launch/hf_job.py "$@"

#!/usr/bin/env bash
# A command whose outputs/ outlasts the machine:  keep.sh FOLDER COMMAND...
#
# What FOLDER (a mounted bucket) holds of an earlier machine is brought into outputs/ first; files are copied to it every KEEP_SECONDS (300) and
# at the end. Files only: a bucket has no links. Signals reach the command, whose exit code is this script's.
set -u
kept=$1
shift
mkdir -p outputs "$kept"
kept=$(cd "$kept" && pwd)
copy() { (cd "$1" && find . -type f ! -name '*.lock' ! -name '.*' -exec cp --update --parents --target-directory "$2" {} +); }

copy "$kept" "$PWD/outputs"
(while sleep "${KEEP_SECONDS:-300}"; do copy outputs "$kept"; done) &
copier=$!
"$@" &
command=$!
trap 'stopped=yes; kill -TERM "$command" 2>/dev/null' TERM INT
# A trap ends `wait` before the command has ended: then wait again.
stopped=yes
while [ -n "$stopped" ]; do
    stopped=
    wait "$command"
    code=$?
done
kill "$copier" 2>/dev/null
copy outputs "$kept"
exit "$code"

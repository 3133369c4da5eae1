#!/bin/sh
# The main job, end to end, on this machine's CPU and on images that come with scikit-learn: what `make demo` runs.
# usage: sh examples/end_to_end.sh [FOLDER]     the same command again continues where it stopped
set -eu
folder=${1:-runs/demo}
started=$(date +%s)
say() {
    printf '\n$ hwnas'
    for word in "$@"; do
        case $word in *[!A-Za-z0-9_./=-]*) printf " '%s'" "$word" ;; *) printf ' %s' "$word" ;; esac
    done
    printf '\n'
    began=$(date +%s)
    status=0
    hwnas "$@" || status=$?
    printf '(%d s)\n' $(($(date +%s) - began))
    return $status
}

say profile localhost --space ofa_mini --to "$folder/table"
say train "$folder/run" --space ofa_mini --data cluttered_digits --threads 1
say search "$folder/run" --table "$folder/table" --latency "<= 55% p50" --threads 1
certified=yes
say verify "$folder/run" || certified=no
if [ $certified = yes ]; then say export "$folder/run" --to "$folder/export"; fi
say report "$folder/run" --to "$folder/report.html"
if [ $certified = no ]; then
    printf '\nno network was certified within the budget; on a quieter machine the same command measures again\n'
    exit 1
fi
printf '\nthe whole job took %d s; what to ship is in %s\n' $(($(date +%s) - started)) "$folder/export"
printf 'next: %s %s/export/onnxruntime_python/infer.py\n' "$(command -v python || command -v python3)" "$folder"

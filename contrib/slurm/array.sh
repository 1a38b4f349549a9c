#!/bin/bash
# A job of an array that takes one part of a file of lines, and writes one part of the result:
#
#     sbatch --array=1-64%8 array.sh INPUT FOLDER GPTPIPE-OPTIONS… PROMPT
#     cat FOLDER/part-????
#
# A part that is there is not done again, so submitting the same array once more runs what failed. Of a part that failed
# only what is missing is asked for, on whichever host: each part has its cache beside it, which one job at a time uses.
#
# A limit is kept by the processes of one host, so divide it: of 500 requests a second with `%8`, `--rate 62/s` each.
# Other systems name their numbers otherwise: PBS_ARRAY_INDEX, SGE_TASK_ID, LSB_JOBINDEX.
#SBATCH --job-name=gptpipe
#SBATCH --cpus-per-task=1
#SBATCH --mem=256M
set -euo pipefail
input=$1 folder=$2
shift 2
part=$folder/part-$(printf %04d "$SLURM_ARRAY_TASK_ID")
[ ! -e "$part" ] || exit 0
mkdir -p "$folder"

# Each job keeps its limit by itself, whichever of them share a host: no file over the network is shared.
state=$(mktemp -d)
trap 'rm -rf "$state"' EXIT
export XDG_STATE_HOME="$state"

# Whole lines of this part alone; the file is not read from its start.
split -n "l/$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" "$input" |
    gptpipe --cache "$part.db" --cache-ttl 30d "$@" > "$part.tmp"
mv "$part.tmp" "$part"
rm -f "$part.db" "$part.db-wal" "$part.db-shm"

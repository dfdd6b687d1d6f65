#!/bin/sh
# Set up, index a catalogue, search photos in it, and say where the report is.
#   sh scripts/demo.sh                       on a rendered shop and street
#   sh scripts/demo.sh PHOTOS CATALOGUE      on yours: a folder of photos, and a folder or CSV of items
set -eu
[ $# -eq 0 ] || [ $# -eq 2 ] || { echo "usage: sh scripts/demo.sh [PHOTOS CATALOGUE]" >&2; exit 2; }

absolute() { # before changing folder: paths are the caller's
    [ -e "$1" ] || { echo "there is no $1" >&2; exit 2; }
    case $1 in /*) echo "$1" ;; *) echo "$PWD/$1" ;; esac
}
if [ $# -eq 2 ]; then
    photos=$(absolute "$1") catalogue=$(absolute "$2")
fi
cd "$(dirname "$0")/.."
. scripts/setup.sh

out=$(mktemp -d "${TMPDIR:-/tmp}/outfinder-demo.XXXXXX")
if [ $# -eq 0 ]; then
    .venv/bin/outfinder sample "$out/sample"
    photos=$out/sample/street catalogue=$out/sample/shop.csv
fi
status=0
.venv/bin/outfinder index "$out/gallery" "$catalogue" || status=$?
[ $status -le 1 ] || exit $status
.venv/bin/outfinder search "$out/gallery" "$photos" -o "$out/matches.jsonl" --report "$out/report" || status=$?
[ $status -le 1 ] || exit $status
echo
echo "Gallery: $out/gallery"
echo "Matches: $out/matches.jsonl"
echo "Report:  $out/report/index.html  (open it in a browser)"
exit $status

#!/bin/sh
# The tests of the compiled part under AddressSanitizer and UndefinedBehaviorSanitizer: sh tools/sanitize.sh [PYTHON]
# Needs gcc on Linux. A read or write outside of what it was given ends the run with a report.
set -eu
cd "$(dirname "$0")/.."
python=$(realpath -s "${1:-.venv/bin/python}")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cp -r luthier tests pyproject.toml "$folder"
rm -f "$folder"/luthier/data/_native*
source=$("$python" -c "import sys, zlib; print(zlib.crc32(open(sys.argv[1], 'rb').read()))" luthier/data/native.c)
gcc -std=c99 -g -O1 -fsanitize=address,undefined -fno-sanitize-recover=all -shared -fPIC -DSOURCE="${source}u" \
    luthier/data/native.c -o "$folder/luthier/data/_native.so"
cd "$folder"
LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)" ASAN_OPTIONS=detect_leaks=0 \
    PYTHONPATH=. "$python" -m pytest -n0 -p no:cacheprovider tests/test_native.py tests/test_words.py

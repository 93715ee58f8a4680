#!/bin/sh
# The tests of the compiled parts under AddressSanitizer and UndefinedBehaviorSanitizer: sh tools/sanitize.sh [PYTHON]
# Needs gcc on Linux. A read or write outside of what it was given ends the run with a report.
set -eu
cd "$(dirname "$0")/.."
python=$(realpath -s "${1:-.venv/bin/python}")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cp -r luthier tests pyproject.toml "$folder"
rm -f "$folder"/luthier/data/_native* "$folder"/luthier/kernels/_*.so

# NAME SOURCE [INCLUDED]: beside its source, as `luthier/compiled.py` looks for it.
build() {
    name=$1
    shift
    source=$("$python" -c "import sys, zlib; print(zlib.crc32(b''.join(open(each, 'rb').read() for each in sys.argv[1:])))" "$@")
    gcc -std=c99 -g -O1 -fsanitize=address,undefined -fno-sanitize-recover=all -shared -fPIC -DSOURCE="${source}u" \
        "$1" -o "$folder/$(dirname "$1")/$name.so" -lm
}
build _native luthier/data/native.c
for part in step chains attend; do
    build "_$part" "luthier/kernels/$part.c" luthier/kernels/numbers.h
done
cd "$folder"
LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)" ASAN_OPTIONS=detect_leaks=0 \
    PYTHONPATH=. "$python" -m pytest -n0 -p no:cacheprovider tests/test_native.py tests/test_words.py tests/test_step.py \
    tests/test_kernels_chained.py tests/test_kernels_attention.py tests/test_team.py

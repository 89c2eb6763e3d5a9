#!/bin/bash
# Holds the setuid program to glexec/DEPENDENCIES.md: crates, shared libraries, no thread, no word of a batch system.
# Usage: glexec/check-image.sh [FILE]   FILE is the program that packaging/build-image built (default: target/image/glexec)
set -eu
cd "$(dirname "$0")/.."
file=${1:-${CARGO_TARGET_DIR:-target}/image/glexec}
[ -e "$file" ] || { echo "check-image: run packaging/build-image first"; exit 1; }
sources="glexec/src policy/src policy/identity/src policy/mapdir/src helper/src accounting/record/src"
bad=0
complain() { echo "check-image: $*"; bad=1; }

linked=$(cargo tree --locked -p glexec -e normal,no-proc-macro --prefix none --format '{p}' | awk '{print $1}' | sort -u | grep -v '^glexec$')
listed=$(sed -n '/^| crate/,/^$/p' glexec/DEPENDENCIES.md | awk -F'|' 'NR>2 {print $2}' | tr ', ' '\n\n' | sed '/^$/d' | sort -u)
for crate in $(comm -23 <(echo "$linked") <(echo "$listed")); do complain "crate $crate is linked and has no reason in DEPENDENCIES.md"; done
for crate in $(comm -13 <(echo "$linked") <(echo "$listed")); do complain "crate $crate has a reason and is not linked"; done

for library in $(readelf -d "$file" | sed -n 's/.*NEEDED.*\[\(.*\)\]/\1/p'); do
    case $library in
        libc.so.6 | ld-linux*.so.*) ;;
        *) complain "$file needs $library" ;;
    esac
done
readelf -d "$file" | grep -qE 'RPATH|RUNPATH' && complain "$file has a run path"
grep -qaiF condor "$file" && grep -aoiE '.{0,20}condor.{0,20}' "$file" | head -3 && complain "$file contains the word condor"
grep -rnE 'thread::(spawn|scope|Builder)' $sources && complain "the image must not start threads"
outside=$(grep -rlE '\bunsafe\b' $sources | grep -vE '^glexec/src/sys/|/lib.rs$' || true)
for place in $outside; do
    grep -nE '\bunsafe\b' "$place" | grep -qvE '//' && complain "unsafe outside glexec/src/sys: $place"
done
[ $bad = 0 ] && echo "check-image: $file: $(echo "$linked" | wc -l) crates, all with a reason; no library but libc"
exit $bad

#!/bin/bash
# Holds the manual pages to the programs: every option of --help, every key of a configuration file stands in its page, and
# the reverse; and the pages are written in correct mdoc(7).
#
#   packaging/man/check.sh          BIN_DIR names the programs; without it they are built
set -u -o pipefail
cd "$(dirname "$0")/../.." || exit 1
man=packaging/man
bad=0

say() {
    echo "man: $*" >&2
    bad=1
}

if [ -z "${BIN_DIR:-}" ]; then
    ${CARGO:-cargo} build --locked --quiet --workspace --bins || exit 1
    BIN_DIR=${CARGO_TARGET_DIR:-target}/debug
fi

# differ WHAT PAGE A B: A is what the program has, B what the page has; one word a line.
differ() {
    local word
    for word in $(comm -23 <(sort -u <<<"$3") <(sort -u <<<"$4")); do say "$2 lacks $1 $word"; done
    for word in $(comm -13 <(sort -u <<<"$3") <(sort -u <<<"$4")); do say "$2 has $1 $word, which does not exist"; done
}

# section PAGE NAME: the lines of a subsection, or with an empty name those outside of all subsections.
section() {
    awk -v wanted="$2" '
        /^\.Sh / { now = "" }
        /^\.Ss / { now = substr($0, 5) }
        now == wanted' "$man/$1"
}

# Options in list items: `.It Fl o , Fl -output Ar F` gives -o and --output.
options_of_page() {
    grep -E '^\.It Fl ' | grep -oE 'Fl -?[A-Za-z][A-Za-z0-9-]*' | sed 's/^Fl /-/'
}

# Options at the beginning of a line of clap's --help: `  -o, --output <F>`.
options_of_help() {
    grep -oE '^ +(-[A-Za-z], )?--?[A-Za-z][a-z0-9-]*' | grep -oE -- '--?[A-Za-z][a-z0-9-]*'
}

commands_of() {
    "$BIN_DIR/$1" --help | awk '/^Commands:/ { on = 1; next } /^[^ ]/ { on = 0 } on && /^  [a-z]/ && $1 != "help" { print $1 }'
}

common='Options of all commands'

# A program with commands: each has a subsection with its options; those of several commands may stand in a common one.
with_commands() {
    local program=$1 page=$2 command help own shared all=''
    shared=$(section "$page" "$common" | options_of_page)
    all=$("$BIN_DIR/$program" --help | options_of_help)
    for command in $(commands_of "$program"); do
        grep -qxF ".Ss $command" "$man/$page" || say "$page lacks the command $command"
        help=$("$BIN_DIR/$program" "$command" --help | options_of_help)
        own=$(section "$page" "$command" | options_of_page)
        all+=$'\n'$help
        # Shared options need not be repeated.
        differ "$command" "$page" "$(comm -23 <(sort -u <<<"$help") <(sort -u <<<"$shared"))" \
            "$(comm -23 <(sort -u <<<"$own") <(sort -u <<<"$shared"))"
    done
    for command in $(grep -E '^\.Ss [a-z-]+$' "$man/$page" | cut -c5-); do
        commands_of "$program" | grep -qxF "$command" || say "$page has the command $command, which does not exist"
    done
    differ 'common option' "$page" "$(comm -12 <(sort -u <<<"$all") <(sort -u <<<"$shared"))" "$shared"
}

without_commands() {
    differ option "$2" "$("$BIN_DIR/$1" --help | options_of_help)" "$(options_of_page <"$man/$2")"
}

# Programs that write their usage themselves.
by_usage() {
    local help
    help=$("$BIN_DIR/$1" -h | sed 's/^Exit codes.*//' | grep -oE -- '(^|[[ |])--?[A-Za-z][a-z-]*' | tr -d '[ |')
    differ option "$2" "$help" "$(options_of_page <"$man/$2")"
}

# The parser names its keys when it meets an unknown one.
keys_of() {
    local file
    file=$(mktemp)
    { [ -z "$1" ] || echo "[$1]"; echo 'no_such_key = 1'; } >"$file"
    "$BIN_DIR/site-policy" check --glexec-conf /dev/null "$file" | grep -F 'no_such_key' | sed 's/.*expected//' |
        grep -oE '`[a-z0-9_-]+`' | tr -d '`'
    rm -f "$file"
}

keys_of_page() {
    grep -E '^\.It Ic ' | cut -c8- | tr -d ',' | tr -s ' ' '\n'
}

policy_keys() {
    local table tables page=policy.toml.5
    tables=$(keys_of '')
    [ -n "$tables" ] || say 'site-policy check names no tables of policy.toml'
    for table in $tables mapping.gums; do
        differ "[$table]" "$page" "$(keys_of "$table")" "$(section "$page" "[$table]" | keys_of_page)"
    done
    differ table "$page" "$(printf '%s\n' $tables mapping.gums)" \
        "$(grep -oE '^\.Ss \[[a-z.]+\]$' "$man/$page" | grep -oE '[a-z.]+\]$' | tr -d ']')"
}

conf_keys() {
    differ key glexec.conf.5 \
        "$(sed -n '/^pub const KEYS/,/^];/p' policy/src/glexec_conf.rs | grep -oE '"[a-z_]+"' | tr -d '"')" \
        "$(keys_of_page <"$man/glexec.conf.5")"
}

exit_codes() {
    local code
    for code in 126 '128+ Ns Ar N' 201 202 203 204; do
        grep -qxF ".It $code" "$man/glexec.1" || say "glexec.1 lacks the exit code $code"
    done
}

# mandoc knows mdoc best; groff is what most hosts show pages with.
language() {
    local page said
    for page in "$man"/*.[1-8]; do
        if command -v mandoc >/dev/null; then
            said=$(mandoc -T lint -W warning "$page") || say "$said"
        fi
        if command -v groff >/dev/null; then
            said=$(groff -ww -b -mdoc -T utf8 -z "$page" 2>&1)
            [ -z "$said" ] || say "$said"
        fi
        grep -qF " $page " packaging/files || say "packaging/files does not install $page"
    done
    command -v mandoc >/dev/null || command -v groff >/dev/null || say 'neither mandoc nor groff is installed'
}

by_usage glexec glexec.1
by_usage mkgltempdir mkgltempdir.8
with_commands site-policy site-policy.1
with_commands accounting accounting.1
with_commands pilot pilot.1
without_commands mapping-query mapping-query.1
without_commands mapping-server mapping-server.8
without_commands gridfw gridfw.8
conf_keys
policy_keys
exit_codes
language
[ "$bad" = 0 ] && echo "man: $(find "$man" -name '*.[1-8]' | wc -l) pages say what the programs do"
exit "$bad"

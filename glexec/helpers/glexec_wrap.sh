#!/bin/sh
# glexec_wrap.sh: runs a command through glexec with the caller's environment, all of it, around the payload.
# Usage: glexec_wrap.sh COMMAND [ARGUMENT]...   with the variables that glexec wants, GLEXEC_CLIENT_CERT and so on.
set -u

here=$(dirname "$(readlink -f "$0")")
glexec=
for place in "$here/glexec" "${OSG_GLEXEC_LOCATION:-}" "${GLEXEC_LOCATION:+$GLEXEC_LOCATION/sbin/glexec}" \
    "${GLITE_LOCATION:-/opt/glite}/sbin/glexec"; do
    if [ -n "$place" ] && [ -f "$place" ]; then
        glexec=$place
        break
    fi
done
if [ -z "$glexec" ]; then
    echo "glexec_wrap.sh: glexec is not in $here; set GLEXEC_LOCATION to its prefix" >&2
    exit 127
fi

GLEXEC_ENV=$("$here/glexec_wrapenv.pl") || exit
export GLEXEC_ENV
exec "$glexec" "$here/glexec_unwrapenv.pl" -- "$@"

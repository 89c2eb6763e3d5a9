#!/bin/sh
# A payload with a mistake in it: its exit code has to reach the user as it is.
echo "giving up with 7" >&2
exit 7

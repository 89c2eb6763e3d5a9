#!/bin/sh
# An honest payload: says who it is, writes a result, and waits to be called back.
set -eu
id
echo "facts: pid=$$ directory=$PWD proxy=$X509_USER_PROXY"
echo "computed by $(id -un)" >result.txt
exec perl callback.pl

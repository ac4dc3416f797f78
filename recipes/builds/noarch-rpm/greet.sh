#!/bin/sh
# Greets whoever is named, or everybody.
set -eu
printf 'Hello, %s!\n' "${1:-world}"

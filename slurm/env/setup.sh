#!/bin/sh
# setup.py through the first interpreter that can read it; where there is none, what to install. Takes PYTHON.
for python in "${PYTHON:-python3}" python3.12 python3.11; do
	if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 8))' 2>/dev/null; then
		exec "$python" "${0%/*}/setup.py" "$@"
	fi
done
echo "set-up: Python 3.11 or 3.12 is needed, and ${PYTHON:-python3} is older or missing: install one of them with venv, for" \
	"instance \`apt-get install python3.11 python3.11-venv\`, or name it: make setup PYTHON=/path/to/python3.11" >&2
exit 1

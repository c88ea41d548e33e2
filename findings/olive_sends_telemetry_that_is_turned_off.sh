#!/usr/bin/env bash
# Guess: with OLIVE_DISABLE_TELEMETRY=1 and --disable_telemetry Olive sends nothing. Seen: olive-ai 0.13.0 first makes its first
# message, with an id of the machine, and then looks at either; the message is sent, several times if it does not arrive.
# With the environment variable CI set, nothing is sent. (requests is replaced here: nothing leaves the machine.)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --quiet --disable-pip-version-check install --no-compile olive-ai==0.13.0 torch==2.13.0 transformers==5.24.0 \
    onnx==1.23.2 onnx-ir==1.1.0 onnxscript==0.7.2 onnxruntime==1.32.0 numpy==2.4.6 pydantic==2.13.5 requests==2.34.2 2>/dev/null
cd "$folder"
cat > run.py <<'PYTHON'
import requests

sent = []


def send(_session, request, **_options):
    sent.append(request.url)
    raise requests.ConnectionError("nothing leaves the machine")


requests.Session.send = send
from olive.cli.launcher import main

main(["run-pass", "--list-passes", "--disable_telemetry"])
print(f"messages: {len(sent)}, to {sorted(set(sent))}")
PYTHON
export HOME="$folder" OLIVE_DISABLE_TELEMETRY=1
for name in TF_BUILD GITHUB_ACTIONS JENKINS_URL CODEBUILD_BUILD_ID BUILDKITE SYSTEM_TEAMFOUNDATIONCOLLECTIONURI; do unset "$name"; done
CI= venv/bin/python run.py 2>/dev/null | tail -1 | sed 's/^/turned off: /' | tee off.txt
CI=true venv/bin/python run.py 2>/dev/null | tail -1 | sed 's/^/with CI set: /' | tee ci.txt
grep -q "messages: [1-9]" off.txt && grep -q "messages: 0" ci.txt

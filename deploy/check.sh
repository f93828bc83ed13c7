#!/bin/sh
# The image's install and start steps without Docker, in the empty folder FOLDER: check.sh FOLDER
# Installs the package, calibrates the embedded model, and starts the server with the policy and the arguments of
# compose.yaml on a free port. Checks /ready, keys, /metrics, and that SIGTERM ends it with status 0.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
folder=$1
mkdir -p "$folder"
[ -x "$folder/venv/bin/sarsteer" ] || sh "$here/install.sh" "$folder/venv"
cp "$here/config/policy.yaml" "$folder/policy.yaml"
cd "$folder"
export PATH="$folder/venv/bin:$PATH" SUPPORT_KEY=support-key-0123456789 METRICS_KEY=metrics-key-0123456789
[ -f steering.safetensors ] || sarsteer calibrate sarsteer-tiny --pairs sarsteer-tiny --out steering.safetensors
port=$(python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
sarsteer serve sarsteer-tiny --engine=transformers --host=0.0.0.0 --port="$port" --policy="$folder/policy.yaml" \
    --drain-seconds=120 &
server=$!
trap 'kill -9 $server 2>/dev/null || true' EXIT
status() { curl -s -o /dev/null -w '%{http_code}' "$@" || true; }
for _ in $(seq 300); do
    [ "$(status "http://127.0.0.1:$port/ready")" = 200 ] && break
    kill -0 $server
    sleep 1
done
expect() { # expect STATUS CURL-ARGUMENTS
    wanted=$1
    shift
    got=$(status "$@")
    [ "$got" = "$wanted" ] || { echo "expected HTTP $wanted, got $got: $*" >&2; exit 1; }
}
base="http://127.0.0.1:$port"
body='{"model": "sarsteer-tiny", "max_tokens": 8, "messages": [{"role": "user", "content": "Hello."}]}'
expect 200 "$base/health"
expect 200 "$base/ready"
expect 401 "$base/metrics"
expect 200 -H "Authorization: Bearer $METRICS_KEY" "$base/metrics"
expect 401 -H 'Content-Type: application/json' -d "$body" "$base/v1/chat/completions"
expect 200 -H 'Content-Type: application/json' -H "Authorization: Bearer $SUPPORT_KEY" -d "$body" \
    "$base/v1/chat/completions"
kill -TERM $server
wait $server
trap - EXIT
echo "deployment checked: installed, started, answered with keys only, and drained"

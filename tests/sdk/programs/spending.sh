#!/bin/sh
# Budgets and rates in a shell: what a step spends is counted with its record, and a budget that is used up parks.
set -eu

# Send a line to the agent, and print its answer.
ask() {
  python3 -c '
import os, socket, sys
agent = socket.socket(socket.AF_UNIX)
agent.connect(os.environ["RAFTFLOW_SOCKET"])
agent.sendall(sys.argv[1].encode() + b"\n")
print(agent.makefile().readline(), end="")
' "$1"
}

# Do a step that costs something. When a budget is used up, end: the task runs again when it is raised.
paid_step() {
  begun=$(ask "{\"call\":\"step\",\"name\":\"$1\"}")
  case $begun in
    *'"known":true'*) ;;
    *'"type":"parked"'*) exit 0 ;;
    *) ask "{\"call\":\"record\",\"name\":\"$1\",\"occurrence\":1,\"spent\":{\"usd\":\"$2\"}}" >/dev/null ;;
  esac
}

# Ask for something that begins no step here.
must() {
  case $(ask "$1") in
    *'"ok"'*) ;;
    *'"type":"parked"'*) exit 0 ;;
    *) exit 1 ;;
  esac
}

must '{"call":"rate","limit":"llm","count":2}'
must '{"call":"spend","amounts":{"usd":0.5}}'
paid_step first 1.0
paid_step second 0.25
printf '"done"' >"$RAFTFLOW_RESULT"

#!/bin/sh
# An effect in a shell: the intent is in the log before the mail is sent, and a later attempt looks whether it was.
set -eu

ask() {
  python3 -c '
import os, socket, sys
agent = socket.socket(socket.AF_UNIX)
agent.connect(os.environ["RAFTFLOW_SOCKET"])
agent.sendall(sys.argv[1].encode() + b"\n")
print(agent.makefile().readline(), end="")
' "$1"
}

field() { # of an answer
  echo "$1" | python3 -c 'import json, sys; print(json.load(sys.stdin)["ok"][sys.argv[1]])' "$2"
}

end() {
  ask "{\"call\":\"effect_end\",\"name\":\"mail\",\"occurrence\":$1,\"outcome\":\"done\",\"result\":\"sent\"}" | grep -q '"ok"'
}

file=$1
begun=$(ask '{"call":"effect_begin","name":"mail","function":"send"}')
state=$(field "$begun" state)
if [ "$state" != done ]; then
  key=$(field "$begun" idempotency_key)
  if [ "$state" = begun ] || ! grep -qx "$key" "$file"; then
    echo "$key" >>"$file"
    [ "$RAFTFLOW_ATTEMPT" = 1 ] && exit 1 # it dies between the call and its outcome
  fi
  end "$(field "$begun" occurrence)"
fi
printf '["%s"]' "$(cat "$file")" >"$RAFTFLOW_RESULT"

#!/bin/sh
# bell.sh PIPE PROGRAM ...: runs the broker, and passes on to it what is written into the named pipe.
#
# The agent that keeps the broker's files is in another container, and cannot signal the broker. To let it see the broker's
# processes would tie its life to the broker's: it would be killed with it, and Docker starts no container whose partner does
# not run at that moment.
set -eu
bell=$1
shift
if [ ! -p "$bell" ]; then
    echo "$bell is no named pipe; scripts/compose-secrets makes it" >&2
    exit 2
fi

# Open before the broker runs, so that no word is lost; for both ways, so that it does not end when a writer leaves.
exec 3<>"$bell"
# Until the broker heeds it, this signal would end it: it starts with it ignored. Whoever rang that early finds that the broker has not
# read the files anew, and rings again.
trap '' HUP
"$@" 3<&- &
broker=$!
while read -r word; do
    case "$word" in
        reload) kill -HUP "$broker" ;;
        end) kill -TERM "$broker" ;;
    esac
done <&3 &
listener=$!
exec 3<&-

trap 'kill -TERM "$broker"' INT TERM
# A signal that is trapped ends the wait, not the broker, which saves its sessions first.
while :; do
    status=0
    wait "$broker" || status=$?
    kill -0 "$broker" 2>/dev/null || break
done
kill "$listener" 2>/dev/null || :
exit "$status"

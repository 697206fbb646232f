#!/usr/bin/env bash
# The broker of IoTFlow: set up, started, stopped, looked after; its users and devices. Every verb is `iotflow broker VERB`.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

usage() {
    cat <<'USAGE'
usage: ./mqtt_manage.sh VERB ...

  setup                        make the configuration, keys and folders, and start the broker
  setup-admin [PASSWORD]       give the admin a password: this one, or a random one, shown once
  start | stop | restart       the broker, in the background
  status                       whether it runs; listeners, clients, message rates
  logs                         its log, as it grows
  test [USER] [PASSWORD]       log in as the service, or as this user
  create-user USER [PASSWORD]  add a user; without a password a random one is made
  delete-user USER             remove a user; it is disconnected
  list-users                   who may log in
  generate-device ID           register a device and make its credentials
  backup [FILE]                users, access, certificates, retained messages and sessions
  restore FILE                 bring them back
  help [VERB]                  this page, or a verb's options

Further verbs (rotate, disable, enable, certs ...), --json and all options: ./mqtt_manage.sh help broker
USAGE
}

# The program: the one that was built here, or the one that is installed.
program() {
    local built
    for built in "${IOTFLOW:-}" "${CARGO_TARGET_DIR:-$here/target}/release/iotflow" "$(command -v iotflow || true)"; do
        if [ -n "$built" ] && [ -x "$built" ]; then
            printf '%s' "$built"
            return
        fi
    done
    echo "iotflow is not built yet: cargo build --release (or ./dev up, which installs what is missing too)" >&2
    exit 2
}

case "${1:-help}" in
    help | -h | --help)
        [ $# -gt 1 ] || { usage && exit 0; }
        iotflow="$(program)"
        [ "$2" = broker ] && exec "$iotflow" broker --help
        exec "$iotflow" broker "$2" --help
        ;;
    *)
        iotflow="$(program)"
        exec "$iotflow" broker "$@"
        ;;
esac

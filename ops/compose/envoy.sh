#!/bin/bash
# Envoy in its container, in one of three modes:
#   envoy.sh GRACE_S [OPTION…]  runs Envoy as process 1: waits for the files that control writes, and on SIGTERM lets the requests
#                               in flight finish for at most GRACE_S seconds
#   envoy.sh ready              exits with 0 if Envoy is ready for requests
#   envoy.sh get PATH           requests PATH from the admin interface, a socket with mode 0600
set -u
files=/run/envoy

# The image has no HTTP client for unix sockets, but it has perl.
admin() {
  perl -MIO::Socket::UNIX -e '
    my $admin = IO::Socket::UNIX->new(Peer => "/run/envoy-admin/socket") or exit 1;
    print $admin "$ARGV[0] $ARGV[1] HTTP/1.1\r\nHost: envoy\r\nConnection: close\r\n\r\n";
    print while <$admin>;' "$1" "$2"
}

running_requests() {
  admin GET '/stats?filter=downstream_rq_active' 2>/dev/null | grep -v '^http\.admin\.' | grep -q ': [1-9]'
}

drain() {
  admin POST /drain_listeners >/dev/null 2>&1
  local deadline=$((SECONDS + grace_s))
  while running_requests && [ "$SECONDS" -lt "$deadline" ]; do sleep 0.2; done
  kill -TERM "$envoy" 2>/dev/null
}

case ${1:?} in
  ready) [[ $(admin GET /ready 2>/dev/null) == 'HTTP/1.1 200'* ]] ;;
  get) admin GET "$2" ;;
  *)
    grace_s=$1
    envoy=
    trap 'if [ -n "$envoy" ]; then drain; else exit 0; fi' TERM INT
    # control writes cds.yaml last.
    until [ -s "$files/cds.yaml" ]; do sleep 0.2; done
    shift
    envoy --config-path "$files/bootstrap.yaml" --disable-hot-restart --log-level warning "$@" &
    envoy=$!
    # `wait` also returns after a signal was handled.
    while kill -0 "$envoy" 2>/dev/null; do wait "$envoy"; code=$?; done
    exit "${code:-1}"
    ;;
esac

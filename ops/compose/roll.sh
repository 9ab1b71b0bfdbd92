#!/bin/sh
# Replaces every authz and meter (or the given services) with containers of the current image and settings, without a denied or
# broken request: it starts the new containers first, and then lets the old ones finish their requests.
# COMPOSE_FILE, COMPOSE_PROJECT_NAME and COMPOSE_ENV_FILES select the project, as for `docker compose`.
set -eu

healthy() {
  docker compose exec -T envoy bash /opt/envoy.sh get /clusters | grep -c "^$1::[0-9].*::health_flags::healthy"
}

for service in ${*:-authz meter}; do
  old=$(docker compose ps -q "$service")
  wanted=$(($(echo "$old" | wc -l) * 2))
  docker compose up -d --no-deps --no-recreate --wait --scale "$service=$wanted" "$service"
  until [ "$(healthy "$service")" -ge "$wanted" ]; do sleep 1; done
  for container in $old; do
    docker stop -t 40 "$container" >/dev/null
    docker rm "$container" >/dev/null
  done
  echo "$service: $((wanted / 2)) replaced"
done

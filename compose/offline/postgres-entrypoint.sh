#!/usr/bin/env bash
# The part of the official image's contract that the lab relies on: POSTGRES_PASSWORD_FILE, POSTGRES_USER, POSTGRES_DB,
# POSTGRES_INITDB_ARGS, PGDATA and scripts in /docker-entrypoint-initdb.d; runs as root (and steps down) or as postgres.
set -euo pipefail
umask 0077

[[ ${1:-} == -* ]] && set -- postgres "$@"
[[ ${1:-} == postgres ]] || exec "$@"

if ((EUID == 0)); then
  mkdir -p "$PGDATA"
  chown -R postgres:postgres "$PGDATA" /var/run/postgresql
  exec setpriv --reuid=postgres --regid=postgres --init-groups -- "$0" "$@"
fi

user=${POSTGRES_USER:-postgres}
database=${POSTGRES_DB:-$user}

if [[ ! -s $PGDATA/PG_VERSION ]]; then
  if [[ -z ${POSTGRES_PASSWORD_FILE:-} || ! -s ${POSTGRES_PASSWORD_FILE} ]]; then
    echo "postgres: POSTGRES_PASSWORD_FILE has to name a file with the superuser's password" >&2
    exit 1
  fi
  mkdir -p "$PGDATA"
  chmod 0700 "$PGDATA"
  # shellcheck disable=SC2086 # several arguments
  initdb --pgdata="$PGDATA" --username="$user" --pwfile="$POSTGRES_PASSWORD_FILE" --auth-local=trust \
    --auth-host=scram-sha-256 --encoding=UTF8 ${POSTGRES_INITDB_ARGS:-} >/dev/null
  printf '\nhost all all all scram-sha-256\n' >>"$PGDATA/pg_hba.conf"
  # a server that nobody but this script can reach, until it is set up
  pg_ctl --pgdata="$PGDATA" --wait --silent --options="-c listen_addresses=''" start
  if [[ $database != postgres ]]; then
    psql --no-psqlrc -q -v ON_ERROR_STOP=1 --username="$user" --dbname=postgres -v name="$database" \
      <<<'CREATE DATABASE :"name"'
  fi
  shopt -s nullglob
  for script in /docker-entrypoint-initdb.d/*; do
    case $script in
      *.sh) if [[ -x $script ]]; then "$script"; else . "$script"; fi ;;
      *.sql) psql --no-psqlrc -q -v ON_ERROR_STOP=1 --username="$user" --dbname="$database" -f "$script" ;;
    esac
  done
  pg_ctl --pgdata="$PGDATA" --wait --silent --mode=fast stop
fi

exec "$@" -c "listen_addresses=*"

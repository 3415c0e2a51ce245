#!/bin/sh
# Makes the database once, then becomes the server. Passwords over TCP only, hashed.
set -eu
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  initdb -D "$PGDATA" -U "$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" --auth-host=scram-sha-256 --auth-local=trust
  echo "hostssl all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
  postgres --single -D "$PGDATA" postgres <<SQL
CREATE DATABASE $POSTGRES_DB
SQL
fi
exec "$@" -c "listen_addresses=*"

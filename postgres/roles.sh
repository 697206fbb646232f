#!/bin/sh
# Runs once, when the container's database is made: the service's own role, which owns the database and is no superuser,
# and one for Grafana that reads what the service makes. Passwords are read by psql itself, so that no list of processes
# shows them.
set -eu

psql --no-psqlrc --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'EOF'
\set service_password `cat /run/secrets/iotflow-database-password`
\set grafana_password `cat /run/secrets/grafana-database-password`

CREATE ROLE iotflow LOGIN PASSWORD :'service_password';
ALTER DATABASE :"DBNAME" OWNER TO iotflow;

CREATE ROLE grafana LOGIN PASSWORD :'grafana_password';
ALTER ROLE grafana SET default_transaction_read_only = on;
-- A dashboard over a year of readings may be slow; it may not be slow for ever.
ALTER ROLE grafana SET statement_timeout = '30s';
ALTER DEFAULT PRIVILEGES FOR ROLE iotflow IN SCHEMA public GRANT SELECT ON TABLES TO grafana;
EOF

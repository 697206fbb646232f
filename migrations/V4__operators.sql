-- Who may operate the fleet, and what was done: tokens of the API, and the audit.

CREATE TABLE api_tokens (
    token_id     uuid PRIMARY KEY,
    name         text NOT NULL CHECK (name ~ '^[A-Za-z0-9_.@-]{1,64}$'),
    role         text NOT NULL CHECK (role IN ('admin', 'operator', 'viewer')),
    hash         bytea NOT NULL UNIQUE CHECK (octet_length(hash) = 32),
    created_at   timestamptz NOT NULL DEFAULT now(),
    created_by   text NOT NULL,
    expires_at   timestamptz,
    revoked_at   timestamptz,
    last_used_at timestamptz
) WITH (fillfactor = 70);
-- A name is free again once its token is revoked, so that a rotation keeps the name.
CREATE UNIQUE INDEX api_tokens_by_name ON api_tokens (name) WHERE revoked_at IS NULL;
COMMENT ON TABLE api_tokens IS 'Tokens of operators and programs. A token itself is shown once, when it is made, and is nowhere in here.';
COMMENT ON COLUMN api_tokens.hash IS 'SHA-256 of the token''s 256 random bits. A slow hash protects secrets that can be guessed; these cannot.';
COMMENT ON COLUMN api_tokens.expires_at IS 'NULL for a token that never expires.';
COMMENT ON COLUMN api_tokens.last_used_at IS 'At most a minute behind its last use.';

CREATE TABLE audit_log (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at      timestamptz NOT NULL DEFAULT now(),
    actor   text NOT NULL CHECK (actor <> ''),
    origin  text NOT NULL,
    action  text NOT NULL CHECK (action ~ '^[a-z]+[.][a-z]+$'),
    object  text NOT NULL,
    outcome text NOT NULL CHECK (outcome IN ('done', 'refused', 'failed')),
    detail  jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(detail) = 'object')
);
CREATE INDEX audit_log_by_time ON audit_log (at);
COMMENT ON TABLE audit_log IS 'What was done, by whom and from where; an entry is written in the transaction of its act. Append-only.';
COMMENT ON COLUMN audit_log.id IS 'Ascending. Gaps are acts that were rolled back.';
COMMENT ON COLUMN audit_log.actor IS 'An account of the operating system; token:NAME and jwt:SUBJECT for those who come over HTTP.';
COMMENT ON COLUMN audit_log.origin IS 'Where from: the host, and what the session says of itself.';
COMMENT ON COLUMN audit_log.object IS 'The name of what was acted on, as it was given.';

-- The database keeps the log append-only, whatever a program does, and in sessions of replication too (ALWAYS). This holds
-- mistakes and injected statements off. It does not bind those who may change the schema: a superuser or the table's owner
-- can drop the trigger or the table, and whoever has the server's files can change those. Who must be safe from them too
-- sends the entries elsewhere as they come.
CREATE FUNCTION audit_log_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'audit_log is append-only: % is refused', TG_OP USING ERRCODE = 'insufficient_privilege';
END
$$;
CREATE TRIGGER audit_log_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION audit_log_is_append_only();
ALTER TABLE audit_log ENABLE ALWAYS TRIGGER audit_log_append_only;

-- New tables are readable to Grafana's role by default (postgres/roles.sh). Who draws dashboards needs neither of these.
DO $$
DECLARE
    reader text;
BEGIN
    FOR reader IN
        SELECT DISTINCT CASE granted.grantee WHEN 0 THEN 'PUBLIC' ELSE granted.grantee::regrole::text END
        FROM pg_class c, aclexplode(c.relacl) AS granted
        WHERE c.oid IN ('api_tokens'::regclass, 'audit_log'::regclass) AND granted.grantee <> c.relowner
    LOOP
        EXECUTE 'REVOKE ALL ON api_tokens, audit_log FROM ' || reader;
    END LOOP;
END
$$;

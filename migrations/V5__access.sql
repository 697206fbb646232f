-- Who may log in at the broker, and who belongs to which group. The broker's password and access files follow from these
-- tables; every change of them moves the version on, and whoever writes the files is told.

CREATE TABLE broker_users (
    username      text PRIMARY KEY CHECK (username ~ '^[A-Za-z0-9_][A-Za-z0-9_.:-]{0,63}$' AND username !~ '^iotflow-'),
    role          text NOT NULL CHECK (role IN ('device', 'admin', 'service', 'fleet', 'provisioning')),
    password_hash text CHECK (password_hash ~ '^\$7\$[1-9][0-9]{0,5}\$[A-Za-z0-9+/]{16}\$[A-Za-z0-9+/]{86}==$'),
    disabled_at   timestamptz,
    created_at    timestamptz NOT NULL DEFAULT now(),
    changed_at    timestamptz NOT NULL DEFAULT now(),
    CHECK (password_hash IS NULL OR username !~ ':')
);
COMMENT ON TABLE broker_users IS 'Users of the broker. A device''s name is its id.';
COMMENT ON COLUMN broker_users.username IS 'What begins with iotflow- are client ids of the service''s own sessions.';
COMMENT ON COLUMN broker_users.password_hash IS 'In Mosquitto''s $7$ form; NULL for one who has a certificate only.';
COMMENT ON COLUMN broker_users.changed_at IS 'When the password last changed.';

CREATE TABLE device_groups (
    group_id   text PRIMARY KEY CHECK (group_id ~ '^[A-Za-z0-9_.:-]{1,64}$'),
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE device_group_members (
    group_id  text NOT NULL REFERENCES device_groups ON DELETE CASCADE,
    device_id integer NOT NULL REFERENCES devices ON DELETE CASCADE,
    PRIMARY KEY (group_id, device_id)
);
CREATE INDEX device_group_members_by_device ON device_group_members (device_id);

CREATE TABLE broker_access (
    only_row        boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version         bigint NOT NULL DEFAULT 0,
    applied_version bigint NOT NULL DEFAULT -1,
    applied_at      timestamptz,
    alarm           text,
    alarm_at        timestamptz
);
COMMENT ON TABLE broker_access IS 'How far the broker''s files are behind the tables above.';
COMMENT ON COLUMN broker_access.version IS 'Moved on by every statement that changes who may do what.';
COMMENT ON COLUMN broker_access.applied_version IS 'The version that is in the broker''s files, and that it was proven to obey if it ran.';
COMMENT ON COLUMN broker_access.alarm IS 'Why the last change is not in force; NULL when all is well.';
INSERT INTO broker_access DEFAULT VALUES;

CREATE FUNCTION broker_access_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE broker_access SET version = version + 1;
    PERFORM pg_notify('access_changed', '');
    RETURN NULL;
END
$$;

CREATE TRIGGER access_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON broker_users
    FOR EACH STATEMENT EXECUTE FUNCTION broker_access_changed();
CREATE TRIGGER access_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON device_group_members
    FOR EACH STATEMENT EXECUTE FUNCTION broker_access_changed();

-- As in V4: who draws dashboards needs neither hashes of passwords nor the name of the share, which stands in the filters.
DO $$
DECLARE
    reader text;
BEGIN
    FOR reader IN
        SELECT DISTINCT CASE granted.grantee WHEN 0 THEN 'PUBLIC' ELSE granted.grantee::regrole::text END
        FROM pg_class c, aclexplode(c.relacl) AS granted
        WHERE c.oid IN ('broker_users'::regclass, 'ingest_sessions'::regclass) AND granted.grantee <> c.relowner
    LOOP
        EXECUTE 'REVOKE ALL ON broker_users, ingest_sessions FROM ' || reader;
    END LOOP;
END
$$;

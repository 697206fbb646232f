-- What operators know of devices and say to them: names and tags, keys of the API, commands, configurations, registrations.

ALTER TABLE devices
    ADD COLUMN display_name text CHECK (display_name <> '' AND length(display_name) <= 200),
    ADD COLUMN device_type text CHECK (device_type <> '' AND length(device_type) <= 64),
    ADD COLUMN tags        text[] NOT NULL DEFAULT '{}',
    ADD COLUMN metadata    jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(metadata) = 'object'),
    ADD COLUMN revision    integer NOT NULL DEFAULT 1,
    ADD COLUMN updated_at  timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN deleted_at  timestamptz;
CREATE INDEX devices_by_tag ON devices USING gin (tags);
CREATE INDEX devices_by_type ON devices (device_type, device_id) WHERE device_type IS NOT NULL;
COMMENT ON COLUMN devices.display_name IS 'What people call it: any text of one line. Not "name": a replica of the release before, still running, joins this table with names.';
COMMENT ON COLUMN devices.revision IS 'Moved on by every change: the ETag.';
COMMENT ON COLUMN devices.deleted_at IS 'Deleted: not shown any more. The row stays, for its telemetry bears its number; registering it again revives it.';

CREATE TABLE device_keys (
    device_id    integer PRIMARY KEY REFERENCES devices ON DELETE CASCADE,
    hash         bytea NOT NULL UNIQUE CHECK (octet_length(hash) = 32),
    created_at   timestamptz NOT NULL DEFAULT now(),
    last_used_at timestamptz,
    disabled_at  timestamptz
) WITH (fillfactor = 70);
COMMENT ON TABLE device_keys IS 'Keys by which devices come over HTTP (X-API-Key), each as the SHA-256 of its 256 random bits.';

ALTER TABLE device_status
    ADD COLUMN received_at  timestamptz,
    ADD COLUMN heartbeat_at timestamptz,
    ADD COLUMN swept        boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN device_status.received_at IS 'When the newest status message came, by our clock.';
COMMENT ON COLUMN device_status.heartbeat_at IS 'When the newest heartbeat came, by our clock; NULL for a device that sends none, which no sweep puts offline.';
COMMENT ON COLUMN device_status.swept IS 'It is offline because its heartbeats stopped, and not because it said so.';

-- Groups: a list of members, or whoever has a tag or is of a type.
ALTER TABLE device_groups
    ADD COLUMN name         text CHECK (name <> '' AND length(name) <= 200),
    ADD COLUMN match_tag    text CHECK (match_tag <> ''),
    ADD COLUMN match_type   text CHECK (match_type <> ''),
    ADD COLUMN revision     integer NOT NULL DEFAULT 1,
    ADD COLUMN updated_at   timestamptz NOT NULL DEFAULT now();
COMMENT ON COLUMN device_groups.match_tag IS 'Devices with this tag are the members. With match_type too: those that fit both. Neither: a list.';

-- Membership of dynamic groups follows by itself, whoever changes a device or a group. The broker's rights follow from it.
CREATE FUNCTION dynamic_groups_of_device() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- Every statement on the members moves the broker's version on, even one that finds nothing: none where there is no such group.
    IF NOT EXISTS (SELECT FROM device_groups WHERE match_tag IS NOT NULL OR match_type IS NOT NULL) THEN
        RETURN NULL;
    END IF;
    DELETE FROM device_group_members m USING device_groups g
    WHERE m.device_id = NEW.device_id AND g.group_id = m.group_id AND (g.match_tag IS NOT NULL OR g.match_type IS NOT NULL)
      AND NOT (NEW.deleted_at IS NULL
               AND (g.match_tag IS NULL OR g.match_tag = ANY (NEW.tags))
               AND (g.match_type IS NULL OR g.match_type IS NOT DISTINCT FROM NEW.device_type));
    INSERT INTO device_group_members (group_id, device_id)
    SELECT g.group_id, NEW.device_id FROM device_groups g
    WHERE NEW.deleted_at IS NULL AND (g.match_tag IS NOT NULL OR g.match_type IS NOT NULL)
      AND (g.match_tag IS NULL OR g.match_tag = ANY (NEW.tags))
      AND (g.match_type IS NULL OR g.match_type IS NOT DISTINCT FROM NEW.device_type)
      AND NOT EXISTS (SELECT FROM device_group_members m WHERE m.group_id = g.group_id AND m.device_id = NEW.device_id);
    RETURN NULL;
END
$$;
-- A device that came by its first message has neither tags nor a type, so telemetry pays nothing for this.
CREATE TRIGGER dynamic_groups_on_insert AFTER INSERT ON devices FOR EACH ROW
    WHEN (NEW.tags <> '{}' OR NEW.device_type IS NOT NULL) EXECUTE FUNCTION dynamic_groups_of_device();
CREATE TRIGGER dynamic_groups_on_update AFTER UPDATE OF tags, device_type, deleted_at ON devices FOR EACH ROW
    WHEN (OLD.tags IS DISTINCT FROM NEW.tags OR OLD.device_type IS DISTINCT FROM NEW.device_type OR OLD.deleted_at IS DISTINCT FROM NEW.deleted_at)
    EXECUTE FUNCTION dynamic_groups_of_device();

CREATE FUNCTION members_of_dynamic_group() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM device_group_members m USING devices d
    WHERE m.group_id = NEW.group_id AND d.device_id = m.device_id
      AND NOT (d.deleted_at IS NULL
               AND (NEW.match_tag IS NULL OR NEW.match_tag = ANY (d.tags))
               AND (NEW.match_type IS NULL OR NEW.match_type IS NOT DISTINCT FROM d.device_type));
    INSERT INTO device_group_members (group_id, device_id)
    SELECT NEW.group_id, d.device_id FROM devices d
    WHERE d.deleted_at IS NULL
      AND (NEW.match_tag IS NULL OR d.tags @> ARRAY[NEW.match_tag])
      AND (NEW.match_type IS NULL OR d.device_type = NEW.match_type)
      AND NOT EXISTS (SELECT FROM device_group_members m WHERE m.group_id = NEW.group_id AND m.device_id = d.device_id);
    RETURN NULL;
END
$$;
CREATE TRIGGER members_of_dynamic_group AFTER INSERT OR UPDATE OF match_tag, match_type ON device_groups FOR EACH ROW
    WHEN (NEW.match_tag IS NOT NULL OR NEW.match_type IS NOT NULL) EXECUTE FUNCTION members_of_dynamic_group();

-- Commands: what was asked for, and for each device how far it has come.
CREATE TABLE commands (
    command_id      text PRIMARY KEY CHECK (command_id ~ '^[A-Za-z0-9_.:-]{1,128}$'),
    group_id        text,
    command_type    text NOT NULL CHECK (command_type IN ('config', 'control', 'firmware')),
    command         text NOT NULL CHECK (command <> '' AND length(command) <= 128),
    parameters      json,
    qos             smallint NOT NULL DEFAULT 2 CHECK (qos BETWEEN 0 AND 2),
    created_at      timestamptz NOT NULL DEFAULT now(),
    created_by      text NOT NULL,
    expires_at      timestamptz NOT NULL,
    idempotency_key text CHECK (length(idempotency_key) BETWEEN 1 AND 255),
    has_news        boolean NOT NULL DEFAULT false
);
CREATE INDEX commands_by_time ON commands (created_at, command_id);
CREATE INDEX commands_by_group ON commands (group_id, created_at) WHERE group_id IS NOT NULL;
CREATE INDEX commands_with_news ON commands (command_id) WHERE has_news;
CREATE UNIQUE INDEX commands_by_idempotency_key ON commands (created_by, idempotency_key) WHERE idempotency_key IS NOT NULL;
COMMENT ON COLUMN commands.group_id IS 'The group, for a command to a fleet. History outlives the group.';
COMMENT ON COLUMN commands.has_news IS 'A command to a group of which more is known than fleet/status/{group_id} says.';
COMMENT ON COLUMN commands.parameters IS 'json and not jsonb: the device gets it as it was given, to the byte.';

CREATE TABLE command_deliveries (
    seq          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    command_id   text NOT NULL REFERENCES commands ON DELETE CASCADE,
    device_id    integer,
    state        text NOT NULL DEFAULT 'queued'
                 CHECK (state IN ('queued', 'sent', 'delivered', 'accepted', 'progress', 'completed', 'failed', 'expired', 'cancelled')),
    by_group     boolean NOT NULL DEFAULT false,
    held         boolean NOT NULL DEFAULT false,
    not_before   timestamptz,
    packet_id    integer CHECK (packet_id BETWEEN 1 AND 65535),
    expires_at   timestamptz NOT NULL,
    queued_at    timestamptz NOT NULL DEFAULT now(),
    sent_at      timestamptz,
    delivered_at timestamptz,
    accepted_at  timestamptz,
    progress_at  timestamptz,
    finished_at  timestamptz,
    progress     real CHECK (progress BETWEEN 0 AND 100),
    message      text,
    result       json,
    UNIQUE (command_id, device_id)
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX command_deliveries_to_group ON command_deliveries (command_id) WHERE device_id IS NULL;
CREATE INDEX command_deliveries_of_device ON command_deliveries (device_id, seq);
CREATE INDEX command_deliveries_due ON command_deliveries (seq) WHERE state = 'queued' AND packet_id IS NULL AND NOT held AND NOT by_group;
CREATE INDEX command_deliveries_waiting ON command_deliveries (device_id, seq)
    WHERE state = 'queued' AND packet_id IS NULL AND NOT by_group AND (held OR not_before IS NOT NULL);
CREATE INDEX command_deliveries_by_group ON command_deliveries (command_id) WHERE state = 'queued' AND by_group;
CREATE UNIQUE INDEX command_deliveries_under_way ON command_deliveries (packet_id) WHERE packet_id IS NOT NULL;
CREATE INDEX command_deliveries_open ON command_deliveries (expires_at)
    WHERE state IN ('queued', 'sent', 'delivered', 'accepted', 'progress');
COMMENT ON COLUMN command_deliveries.seq IS 'The order in which a device gets its commands.';
COMMENT ON COLUMN command_deliveries.device_id IS 'NULL is the one publish on the group''s own topic.';
COMMENT ON COLUMN command_deliveries.by_group IS 'The device gets it by the group''s topic. Taken back for one that was offline when that was published: it gets a copy of its own.';
COMMENT ON COLUMN command_deliveries.held IS 'The device is offline: it waits until the device is back.';
COMMENT ON COLUMN command_deliveries.packet_id IS 'The QoS 2 packet under way at the broker. Written before the packet is, so that after a crash the same packet goes on.';
COMMENT ON COLUMN command_deliveries.sent_at IS 'When the broker said that it has it (PUBREC). Written before PUBREL is.';
COMMENT ON COLUMN command_deliveries.delivered_at IS 'When the device was first heard to have it: MQTT tells a publisher nothing of that, its answer does.';

-- What else is to be published, at least once and in order: configurations, retained messages to clear, answers.
CREATE TABLE outbox (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic      text NOT NULL CHECK (topic <> ''),
    payload    bytea NOT NULL,
    qos        smallint NOT NULL DEFAULT 1 CHECK (qos BETWEEN 0 AND 1),
    retain     boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz
);
COMMENT ON TABLE outbox IS 'A row goes when the broker has acked it.';

CREATE FUNCTION courier_is_wanted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('courier', '');
    RETURN NULL;
END
$$;
-- Not on command_deliveries: transactions that notify commit one after the other, each with its own wait for the disk, which is far fewer
-- commands a second than the disk could take. Who gives one notifies after its commit.
CREATE TRIGGER courier_is_wanted AFTER INSERT ON outbox FOR EACH STATEMENT EXECUTE FUNCTION courier_is_wanted();

-- A device that is back gets what was held for it. Its session at the broker may bring it what was published to its group
-- meanwhile, so a copy of that waits until it would have answered.
CREATE FUNCTION device_is_back() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE command_deliveries d
    SET held = false, not_before = CASE WHEN c.group_id IS NULL THEN NULL ELSE now() + interval '5 seconds' END
    FROM commands c
    WHERE d.device_id = NEW.device_id AND d.held AND d.state = 'queued' AND d.packet_id IS NULL AND NOT d.by_group
      AND c.command_id = d.command_id;
    IF FOUND THEN
        PERFORM pg_notify('courier', '');
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER device_is_back AFTER UPDATE OF status ON device_status FOR EACH ROW
    WHEN (NEW.status = 'online' AND OLD.status = 'offline') EXECUTE FUNCTION device_is_back();
-- Its row was deleted meanwhile.
CREATE TRIGGER device_is_there AFTER INSERT ON device_status FOR EACH ROW
    WHEN (NEW.status = 'online') EXECUTE FUNCTION device_is_back();

-- Whoever moves a delivery on: the group's status is to say so.
CREATE FUNCTION group_command_has_news() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE commands c SET has_news = true
    FROM (SELECT DISTINCT command_id FROM changed) AS changed
    WHERE c.command_id = changed.command_id AND c.group_id IS NOT NULL AND NOT c.has_news;
    RETURN NULL;
END
$$;
CREATE TRIGGER group_command_has_news AFTER UPDATE ON command_deliveries
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION group_command_has_news();

CREATE TABLE device_configs (
    device_id        integer PRIMARY KEY REFERENCES devices ON DELETE CASCADE,
    version          integer NOT NULL DEFAULT 0,
    desired          json,
    desired_at       timestamptz,
    desired_by       text,
    reported         json,
    reported_version integer,
    reported_at      timestamptz
);
COMMENT ON TABLE device_configs IS 'What a device is to be set to (retained on its config topic), and what it says that it is.';
COMMENT ON COLUMN device_configs.version IS 'Moved on by every change, a removal included: a device never sees an older one again. 0 where nothing was ever wanted.';

CREATE TABLE discovery_requests (
    device       text PRIMARY KEY CHECK (device ~ '^[A-Za-z0-9_.:-]{1,64}$'),
    state        text NOT NULL CHECK (state IN ('expected', 'pending', 'approved', 'issued', 'rejected')),
    payload      jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(payload) = 'object'),
    public_key   bytea CHECK (octet_length(public_key) = 32),
    attempts     integer NOT NULL DEFAULT 0,
    created_at   timestamptz NOT NULL DEFAULT now(),
    requested_at timestamptz,
    decided_at   timestamptz,
    decided_by   text,
    issuing_at   timestamptz,
    issued_at    timestamptz,
    reason       text
);
CREATE INDEX discovery_requests_by_state ON discovery_requests (state, requested_at);
COMMENT ON TABLE discovery_requests IS 'Devices that asked for credentials on discovery/register, or are expected to.';
COMMENT ON COLUMN discovery_requests.issuing_at IS 'When credentials were last made for it. Made again only where it has asked, or been approved, since.';
COMMENT ON COLUMN discovery_requests.public_key IS 'X25519: whoever asked first with a key is the one who gets the answer, sealed to it.';
COMMENT ON COLUMN discovery_requests.issued_at IS 'When the broker had taken the answer with the credentials: from then on they are not given again.';

-- Who asks for credentials does so by TLS, unless the user was made for the other way.
ALTER TABLE broker_users DROP CONSTRAINT broker_users_role_check,
    ADD CONSTRAINT broker_users_role_check
        CHECK (role IN ('device', 'admin', 'service', 'fleet', 'provisioning', 'provisioning-plain'));

-- As in V4: who draws dashboards needs neither of these.
DO $$
DECLARE
    reader text;
BEGIN
    FOR reader IN
        SELECT DISTINCT CASE granted.grantee WHEN 0 THEN 'PUBLIC' ELSE granted.grantee::regrole::text END
        FROM pg_class c, aclexplode(c.relacl) AS granted
        WHERE c.oid IN ('device_keys'::regclass, 'outbox'::regclass, 'discovery_requests'::regclass) AND granted.grantee <> c.relowner
    LOOP
        EXECUTE 'REVOKE ALL ON device_keys, outbox, discovery_requests FROM ' || reader;
    END LOOP;
END
$$;

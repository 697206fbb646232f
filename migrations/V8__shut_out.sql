-- Who is shut out is kept on the device, and not on its credentials: those are taken away and given anew, and a certificate is
-- nowhere in here.
--
-- A replica of the release before, still running, shuts out and lets in by the credentials alone: whom it deletes or revokes has no mark
-- here, and whom it registers again keeps one. So no device is shut out, deleted or registered by it once another has come this far.

ALTER TABLE devices
    ADD COLUMN shut_out_at timestamptz,
    ADD COLUMN disabled    boolean NOT NULL DEFAULT false;
CREATE INDEX devices_shut_out ON devices (device) WHERE shut_out_at IS NOT NULL;
COMMENT ON COLUMN devices.shut_out_at IS 'Since when nobody gets in as this device, whatever the credential: disabled, its credentials taken away, or deleted.';
COMMENT ON COLUMN devices.disabled IS 'It stays shut out until somebody enables it, or registers it anew after a deletion; one that is not, until it is given credentials.';

UPDATE devices d
SET shut_out_at = found.at, disabled = found.disabled
FROM (SELECT d.device_id, coalesce(u.disabled_at, k.disabled_at, d.deleted_at) AS at,
             d.deleted_at IS NULL AS disabled
      FROM devices d
      LEFT JOIN broker_users u ON u.username = d.device AND u.role = 'device'
      LEFT JOIN device_keys k USING (device_id)) AS found
WHERE found.device_id = d.device_id AND found.at IS NOT NULL;
UPDATE broker_access SET version = version + 1 WHERE EXISTS (SELECT FROM devices WHERE shut_out_at IS NOT NULL);

CREATE TRIGGER access_changed_on_insert AFTER INSERT ON devices FOR EACH ROW
    WHEN (NEW.shut_out_at IS NOT NULL) EXECUTE FUNCTION broker_access_changed();
CREATE TRIGGER access_changed_on_update AFTER UPDATE OF shut_out_at ON devices FOR EACH ROW
    WHEN ((OLD.shut_out_at IS NULL) <> (NEW.shut_out_at IS NULL)) EXECUTE FUNCTION broker_access_changed();

-- One order for all who change who may do what: groups, then devices, then broker_access, and only then users and members. A statement
-- on users or members came to broker_access last, with its rows in hand, so that two who had two such statements each could wait for
-- each other; and whoever waited for neither of the two could miss what was not committed yet.
CREATE FUNCTION broker_access_is_to_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM broker_access FOR NO KEY UPDATE;
    RETURN NULL;
END
$$;
CREATE TRIGGER access_is_to_change BEFORE INSERT OR UPDATE OR DELETE ON broker_users
    FOR EACH STATEMENT EXECUTE FUNCTION broker_access_is_to_change();
CREATE TRIGGER access_is_to_change BEFORE INSERT OR UPDATE OR DELETE ON device_group_members
    FOR EACH STATEMENT EXECUTE FUNCTION broker_access_is_to_change();
-- Its members go with it, and whoever brings one in meanwhile holds broker_access and waits for the group.
CREATE TRIGGER access_is_to_change BEFORE DELETE ON device_groups
    FOR EACH STATEMENT EXECUTE FUNCTION broker_access_is_to_change();

-- As they were, but that a device that changes and a group that does wait for each other first: what each looks at is then what the other
-- left, and no group is overlooked that is just being made.
CREATE OR REPLACE FUNCTION dynamic_groups_of_device() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM broker_access FOR NO KEY UPDATE;
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

CREATE OR REPLACE FUNCTION members_of_dynamic_group() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM broker_access FOR NO KEY UPDATE;
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

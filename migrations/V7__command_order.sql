-- News of commands to groups as rows of their own, and devices that come back, all of a statement at once: no change of a delivery
-- locks its command, and all lock deliveries in one order (src/devices/commands/mod.rs).
--
-- A replica of the release before, still running, goes by commands.has_news, which nobody sets any more but itself for the commands that
-- it is given. While it has the courier's lease fleet/status tells of those as they begin, and of nothing else; the replica that has the
-- lease after it finds all news here, and tells where each group stands then. The column and its index go with a later release.

-- As that replica takes them, so that neither waits for the other in a circle, and nothing it does is missed below.
LOCK TABLE device_status IN ACCESS EXCLUSIVE MODE;
LOCK TABLE commands IN SHARE ROW EXCLUSIVE MODE;

CREATE TABLE command_news (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    command_id text NOT NULL
);
COMMENT ON TABLE command_news IS 'Commands to groups of which more is known than fleet/status/{group_id} says: a row for each change. Who tells of it takes the rows it has seen, and what comes meanwhile stays for the next time.';
INSERT INTO command_news (command_id) SELECT command_id FROM commands WHERE has_news;

CREATE OR REPLACE FUNCTION group_command_has_news() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO command_news (command_id)
    SELECT command_id FROM (SELECT DISTINCT command_id FROM changed) AS changed JOIN commands c USING (command_id)
    WHERE c.group_id IS NOT NULL;
    RETURN NULL;
END
$$;

CREATE FUNCTION group_command_is_news() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO command_news (command_id) VALUES (NEW.command_id);
    RETURN NULL;
END
$$;
CREATE TRIGGER group_command_is_news AFTER INSERT ON commands FOR EACH ROW
    WHEN (NEW.group_id IS NOT NULL) EXECUTE FUNCTION group_command_is_news();

-- What is held for all who are back is released in one order: device by device, two who lock deliveries could wait for each other.
DROP TRIGGER device_is_back ON device_status;
DROP TRIGGER device_is_there ON device_status;
DROP FUNCTION device_is_back();
CREATE FUNCTION devices_are_back() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    back integer[];
BEGIN
    IF TG_OP = 'INSERT' THEN
        -- Their rows were deleted meanwhile.
        back := ARRAY(SELECT device_id FROM are WHERE status = 'online');
    ELSE
        back := ARRAY(SELECT device_id FROM are JOIN were USING (device_id) WHERE are.status = 'online' AND were.status = 'offline');
    END IF;
    IF cardinality(back) = 0 THEN
        RETURN NULL;
    END IF;
    -- A device's session at the broker may bring it what was published to its group meanwhile, so a copy of that waits until it would
    -- have answered.
    WITH waiting AS (
        SELECT d.seq, c.group_id FROM command_deliveries d JOIN commands c USING (command_id)
        WHERE d.device_id = ANY (back) AND d.held AND d.state = 'queued' AND d.packet_id IS NULL AND NOT d.by_group
        ORDER BY d.seq FOR UPDATE OF d)
    UPDATE command_deliveries d
    SET held = false, not_before = CASE WHEN waiting.group_id IS NULL THEN NULL ELSE now() + interval '5 seconds' END
    FROM waiting WHERE d.seq = waiting.seq;
    IF FOUND THEN
        PERFORM pg_notify('courier', '');
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER devices_are_back AFTER UPDATE ON device_status
    REFERENCING OLD TABLE AS were NEW TABLE AS are FOR EACH STATEMENT EXECUTE FUNCTION devices_are_back();
CREATE TRIGGER devices_are_there AFTER INSERT ON device_status
    REFERENCING NEW TABLE AS are FOR EACH STATEMENT EXECUTE FUNCTION devices_are_back();

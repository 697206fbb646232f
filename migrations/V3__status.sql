-- Where each device stands, as its status topics say; last one wins.

CREATE TABLE device_status (
    device_id integer PRIMARY KEY,
    status    text NOT NULL CHECK (status IN ('online', 'offline')),
    since     timestamptz NOT NULL,
    seen_at   timestamptz NOT NULL,
    payload   jsonb
) WITH (fillfactor = 70);
COMMENT ON COLUMN device_status.since IS 'When the status last changed, by the device''s clock where it gave a time.';
COMMENT ON COLUMN device_status.seen_at IS 'The newest status message, heartbeats included.';
COMMENT ON COLUMN device_status.payload IS 'That message''s payload.';

-- The sessions that this installation has opened at the broker, so that one that is no longer wanted is drained and ended
-- instead of gathering messages that nobody will take.
CREATE TABLE ingest_sessions (
    client_id text PRIMARY KEY,
    filters   text[] NOT NULL,
    opened_at timestamptz NOT NULL DEFAULT now()
);

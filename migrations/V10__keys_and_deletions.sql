-- A device that was announced may be announced with the key that it will bring; and what was deleted of telemetry is known for a while.

ALTER TABLE discovery_requests ADD COLUMN expected_key bytea CHECK (octet_length(expected_key) = 32);
COMMENT ON COLUMN discovery_requests.expected_key IS 'X25519: only a request with this key is answered. NULL where none was announced.';

CREATE TABLE telemetry_deletions (
    device_id  integer NOT NULL,
    begins     timestamptz NOT NULL,
    ends       timestamptz NOT NULL,
    deleted_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE telemetry_deletions IS 'Spans that somebody deleted in the last day: a writer that still has such a message in memory must not take it for the newest.';

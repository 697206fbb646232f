-- One row per message. With TimescaleDB the two large tables are hypertables, without it they are partitioned natively;
-- columns, keys and results are the same. No DEFAULT partition: it would make every ATTACH scan and lock it.

DO $$
DECLARE
    timescale boolean := EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb');
    ending    text := CASE WHEN timescale THEN '' ELSE ' PARTITION BY RANGE ("time")' END;
BEGIN
    EXECUTE 'CREATE TABLE telemetry (
        "time"        timestamptz NOT NULL,
        device_id     integer NOT NULL,
        metric_set_id integer NOT NULL,
        "values"      float8[] NOT NULL,
        extra         jsonb,
        CONSTRAINT telemetry_key UNIQUE (device_id, "time", metric_set_id)
    )' || ending;
    EXECUTE 'CREATE TABLE events (
        "time"       timestamptz NOT NULL,
        device_id    integer NOT NULL,
        payload_hash bigint NOT NULL,
        payload      jsonb NOT NULL,
        CONSTRAINT events_key UNIQUE (device_id, "time", payload_hash)
    )' || ending;
    IF timescale THEN
        PERFORM create_hypertable('telemetry', 'time', chunk_time_interval => interval '1 day', create_default_indexes => false);
        PERFORM create_hypertable('events', 'time', chunk_time_interval => interval '1 day', create_default_indexes => false);
    END IF;
END
$$;

COMMENT ON TABLE telemetry IS 'One row a message; (device_id, time, metric_set_id) is its identity, by which a redelivery is recognised.';
COMMENT ON COLUMN telemetry."values" IS 'Numbers and booleans (0, 1), in the order of metric_set_members.position.';
COMMENT ON COLUMN telemetry.extra IS 'What is not a number: strings, nested values, metadata. NULL when there is none.';
COMMENT ON COLUMN events.payload_hash IS 'XXH3 (64 bits) of the payload as stored: tells events of one device and time apart.';

-- The long form that people and Grafana query.
CREATE VIEW readings AS
SELECT t."time", d.device, m.name AS metric, t."values"[s.position] AS value
FROM telemetry t
JOIN devices d USING (device_id)
JOIN metric_set_members s USING (metric_set_id)
JOIN metrics m USING (metric_id);

CREATE TABLE latest (
    device_id     integer NOT NULL,
    metric_set_id integer NOT NULL,
    "time"        timestamptz NOT NULL,
    "values"      float8[] NOT NULL,
    extra         jsonb,
    PRIMARY KEY (device_id, metric_set_id)
) WITH (fillfactor = 70);
COMMENT ON TABLE latest IS 'The newest message of each device and metric set, at most about a second behind telemetry.';

CREATE TABLE dead_letters (
    id          uuid PRIMARY KEY,
    received_at timestamptz NOT NULL,
    topic       text NOT NULL,
    qos         smallint NOT NULL,
    payload     bytea NOT NULL,
    reason      text NOT NULL,
    detail      text NOT NULL
);
CREATE INDEX dead_letters_by_time ON dead_letters (received_at);
COMMENT ON TABLE dead_letters IS 'Messages that were refused, whole: at most one row a message.';

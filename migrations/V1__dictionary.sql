-- What the hot table's integers mean. Every id is learned once and cached by the service.

CREATE TABLE devices (
    device_id  integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device     text NOT NULL UNIQUE CHECK (device ~ '^[A-Za-z0-9_.:-]{1,64}$'),
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE devices IS 'Devices by the id in their topics; registered by their first message.';

CREATE TABLE metrics (
    metric_id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name      text NOT NULL UNIQUE CHECK (name <> ''),
    unit      text
);

CREATE TABLE metric_sets (
    metric_set_id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind          smallint NOT NULL,
    extra_names   text[] NOT NULL DEFAULT '{}',
    fingerprint   bytea NOT NULL UNIQUE
);
COMMENT ON TABLE metric_sets IS 'The list of names that a message carries: one row a distinct list and kind of telemetry.';
COMMENT ON COLUMN metric_sets.kind IS 'The topic: 0 telemetry, 1 telemetry/sensors, 2 telemetry/metrics.';
COMMENT ON COLUMN metric_sets.extra_names IS 'Names of what is not a number and stands in telemetry.extra.';
COMMENT ON COLUMN metric_sets.fingerprint IS 'SHA-256 of the canonical list, names of any length included.';

CREATE TABLE metric_set_members (
    metric_set_id integer NOT NULL REFERENCES metric_sets,
    position      smallint NOT NULL,
    metric_id     integer NOT NULL REFERENCES metrics,
    PRIMARY KEY (metric_set_id, position)
);
CREATE INDEX metric_set_members_by_metric ON metric_set_members (metric_id, metric_set_id);
COMMENT ON COLUMN metric_set_members.position IS 'Index into telemetry."values", from 1.';

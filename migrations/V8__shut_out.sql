-- Who is shut out is kept on the device, and not on its credentials: those are taken away and given anew, and a certificate is
-- nowhere in here.

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

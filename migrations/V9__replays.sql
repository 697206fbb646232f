-- A replay claims its letter, so that no transaction is open while the broker takes its time.

ALTER TABLE dead_letters ADD COLUMN claimed_until timestamptz;
COMMENT ON COLUMN dead_letters.claimed_until IS 'Being published again until then, by one replica or command: the others leave it alone.';

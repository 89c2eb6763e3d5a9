-- Waiting payloads are matched by what they ask for, ids come from clients, and times that leases depend on are in
-- milliseconds.

CREATE TABLE signatures (                -- requirements that payloads have in common: one row to match
    id       INTEGER PRIMARY KEY,
    cores    INTEGER NOT NULL,
    memory   INTEGER,
    walltime INTEGER
) STRICT;
CREATE UNIQUE INDEX signatures_of ON signatures (cores, coalesce(memory, -1), coalesce(walltime, -1));
INSERT INTO signatures (cores, memory, walltime) SELECT DISTINCT cores, memory, walltime FROM payloads;

ALTER TABLE payloads ADD COLUMN signature INTEGER REFERENCES signatures (id);
ALTER TABLE payloads ADD COLUMN submission TEXT;          -- the array's id; NULL for a single payload
ALTER TABLE payloads ADD COLUMN returns INTEGER NOT NULL DEFAULT 0;
ALTER TABLE payloads ADD COLUMN avoid TEXT;               -- a host that failed it
ALTER TABLE payloads ADD COLUMN avoid_until INTEGER;      -- milliseconds
ALTER TABLE payloads ADD COLUMN finished INTEGER;         -- seconds
UPDATE payloads SET signature = (
    SELECT s.id FROM signatures s WHERE s.cores = payloads.cores AND coalesce(s.memory, -1) = coalesce(payloads.memory, -1)
    AND coalesce(s.walltime, -1) = coalesce(payloads.walltime, -1));
UPDATE payloads SET finished = (SELECT max(e.at) FROM events e WHERE e.payload = payloads.id)
    WHERE state IN ('done', 'failed', 'killed');
DROP INDEX payloads_waiting;
CREATE INDEX payloads_waiting ON payloads (signature, seq) WHERE state = 'waiting';
CREATE INDEX payloads_submission ON payloads (submission, seq) WHERE submission IS NOT NULL;
CREATE INDEX payloads_state ON payloads (owner, state, seq);
CREATE INDEX payloads_finished ON payloads (finished) WHERE finished IS NOT NULL;

ALTER TABLE specs ADD COLUMN notify TEXT;
UPDATE specs SET notify = json_extract(json, '$.notify');

ALTER TABLE delegations ADD COLUMN csr TEXT NOT NULL DEFAULT '';

ALTER TABLE pilots ADD COLUMN host TEXT NOT NULL DEFAULT '';
ALTER TABLE pilots ADD COLUMN secret TEXT;
UPDATE pilots SET host = json_extract(registration, '$.host'), seen = seen * 1000;
CREATE INDEX pilots_live ON pilots (host) WHERE drain = 0 AND state IN ('starting', 'validating', 'ready', 'busy');

ALTER TABLE attempts ADD COLUMN returned INTEGER NOT NULL DEFAULT 0;

ALTER TABLE leases ADD COLUMN claim TEXT;
UPDATE leases SET renewed = renewed * 1000;

CREATE TABLE health (                    -- written to see whether writing works
    id INTEGER PRIMARY KEY CHECK (id = 1),
    at INTEGER NOT NULL
) STRICT;

-- History goes only with its payload.
DROP TRIGGER events_last;
CREATE TRIGGER events_last BEFORE DELETE ON events
WHEN EXISTS (SELECT 1 FROM payloads p WHERE p.id = OLD.payload)
BEGIN SELECT RAISE(ABORT, 'events are append only'); END;

PRAGMA user_version = 2;

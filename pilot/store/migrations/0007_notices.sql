-- URLs are told every change, in order: up to which one they were.
ALTER TABLE notices ADD COLUMN told INTEGER NOT NULL DEFAULT 0;
UPDATE notices SET told = coalesce((SELECT max(e.seq) - 1 FROM events e WHERE e.payload = notices.payload), 0);
-- Payloads that are under way are told of from now on.
INSERT OR IGNORE INTO notices (payload, url, told)
    SELECT p.id, s.notify, coalesce((SELECT max(e.seq) FROM events e WHERE e.payload = p.id), 0)
    FROM payloads p JOIN specs s ON s.id = p.spec
    WHERE s.notify IS NOT NULL AND p.state NOT IN ('done', 'failed', 'killed');

PRAGMA user_version = 7;

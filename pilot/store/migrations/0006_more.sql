-- Payloads ask for disk, and one that reached a limit is tried again with more.

ALTER TABLE payloads ADD COLUMN disk INTEGER;
ALTER TABLE pilots ADD COLUMN disk INTEGER;
ALTER TABLE specs ADD COLUMN retry_memory TEXT;           -- factor of the next try, such as 2x
ALTER TABLE specs ADD COLUMN retry_disk TEXT;

ALTER TABLE signatures ADD COLUMN disk INTEGER;
DROP INDEX signatures_of;
CREATE UNIQUE INDEX signatures_of ON signatures (cores, coalesce(memory, -1), coalesce(walltime, -1), coalesce(disk, -1));

PRAGMA user_version = 6;

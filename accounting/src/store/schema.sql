-- The index of the day files. Everything in it can be made again from them.
CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
-- Texts that come up again and again; rows name them by number.
CREATE TABLE name (id INTEGER PRIMARY KEY, kind INTEGER NOT NULL, text TEXT NOT NULL, UNIQUE (kind, text));
-- Times in nanoseconds since the epoch, half-open: a session holds its account from start until just before end.
CREATE TABLE session (
    n INTEGER PRIMARY KEY, id BLOB NOT NULL, tail INTEGER,
    day INTEGER NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL,
    state INTEGER NOT NULL, role INTEGER NOT NULL, start_ns INTEGER NOT NULL, end_ns INTEGER NOT NULL,
    uid INTEGER, cred INTEGER, exit INTEGER,
    wall_us INTEGER NOT NULL, cpu_us INTEGER NOT NULL, cpus INTEGER NOT NULL, mem_bytes INTEGER NOT NULL,
    host INTEGER, dn INTEGER, vo INTEGER, fqans INTEGER, account INTEGER,
    pilot INTEGER, batch INTEGER, parent INTEGER, ce INTEGER, reason INTEGER
);
CREATE UNIQUE INDEX session_id ON session (id);
CREATE INDEX session_tail ON session (tail);
CREATE INDEX session_who ON session (uid, host, start_ns, end_ns);
CREATE INDEX session_dn ON session (dn, start_ns);
CREATE INDEX session_end ON session (end_ns);
-- The order of pages.
CREATE INDEX session_start ON session (start_ns);
CREATE INDEX session_cred ON session (cred) WHERE cred IS NOT NULL;
CREATE INDEX session_batch ON session (batch, start_ns) WHERE batch IS NOT NULL;
CREATE INDEX session_parent ON session (parent) WHERE parent IS NOT NULL;
CREATE INDEX session_denied ON session (reason, start_ns) WHERE reason IS NOT NULL;
-- What a month costs is asked often: a row for each day and combination.
CREATE TABLE day_sum (
    day INTEGER NOT NULL, role INTEGER NOT NULL, denied INTEGER NOT NULL,
    vo INTEGER NOT NULL, dn INTEGER NOT NULL, account INTEGER NOT NULL, pilot INTEGER NOT NULL,
    jobs INTEGER NOT NULL, refused INTEGER NOT NULL, lost INTEGER NOT NULL, failed INTEGER NOT NULL,
    wall_us INTEGER NOT NULL, core_us INTEGER NOT NULL, cpu_us INTEGER NOT NULL, mem_max INTEGER NOT NULL,
    PRIMARY KEY (day, role, denied, vo, dn, account, pilot)
) WITHOUT ROWID;

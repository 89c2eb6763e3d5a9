-- First schema. Times are seconds since the epoch, ids are UUIDs as text, states are the words of the interface.

CREATE TABLE delegations (
    id        TEXT PRIMARY KEY,
    owner     TEXT NOT NULL,
    created   INTEGER NOT NULL,
    key       TEXT NOT NULL,             -- private key, PEM: the reason for this file's mode 0600
    chain     TEXT,                      -- NULL until the owner has signed
    not_after INTEGER
) STRICT;

CREATE TABLE blobs (
    sha256 TEXT PRIMARY KEY,
    size   INTEGER NOT NULL
) STRICT;

CREATE TABLE blob_owners (               -- who has shown to possess the content
    sha256 TEXT NOT NULL REFERENCES blobs (sha256),
    owner  TEXT NOT NULL,
    at     INTEGER NOT NULL,
    PRIMARY KEY (sha256, owner)
) STRICT, WITHOUT ROWID;

CREATE TABLE specs (                     -- one row for all elements of an array
    id   INTEGER PRIMARY KEY,
    json TEXT NOT NULL
) STRICT;

CREATE TABLE spec_blobs (
    sha256 TEXT NOT NULL,
    spec   INTEGER NOT NULL REFERENCES specs (id),
    PRIMARY KEY (sha256, spec)
) STRICT, WITHOUT ROWID;

CREATE TABLE payloads (
    seq           INTEGER PRIMARY KEY AUTOINCREMENT,
    id            TEXT NOT NULL UNIQUE,
    owner         TEXT NOT NULL,
    delegation    TEXT NOT NULL REFERENCES delegations (id),
    spec          INTEGER NOT NULL REFERENCES specs (id),
    array_index   INTEGER,
    cores         INTEGER NOT NULL,
    memory        INTEGER,
    walltime      INTEGER,
    submitted     INTEGER NOT NULL,
    state         TEXT NOT NULL,
    reason        TEXT,
    cancel_wanted INTEGER NOT NULL DEFAULT 0,
    attempts      INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX payloads_waiting ON payloads (seq) WHERE state = 'waiting';
CREATE INDEX payloads_owner ON payloads (owner, seq);
CREATE INDEX payloads_delegation ON payloads (delegation);
CREATE INDEX payloads_spec ON payloads (spec);

CREATE TABLE pilots (
    id           TEXT PRIMARY KEY,
    dn           TEXT NOT NULL,
    registration TEXT NOT NULL,
    slots        INTEGER NOT NULL,
    cores        INTEGER NOT NULL,
    memory       INTEGER,
    state        TEXT NOT NULL,
    seen         INTEGER NOT NULL,
    drain        INTEGER NOT NULL DEFAULT 0,
    reason       TEXT
) STRICT;
CREATE INDEX pilots_seen ON pilots (seen);

CREATE TABLE attempts (
    id       TEXT PRIMARY KEY,
    payload  TEXT NOT NULL REFERENCES payloads (id),
    number   INTEGER NOT NULL,
    pilot    TEXT NOT NULL REFERENCES pilots (id),
    lease    TEXT NOT NULL UNIQUE,
    leased   INTEGER NOT NULL,
    outcome  TEXT,
    ended    INTEGER,
    report   TEXT,                       -- NULL unless the pilot reported: tells a repeated result from a late one
    UNIQUE (payload, number)
) STRICT;

CREATE TABLE leases (                    -- open ones only
    id      TEXT PRIMARY KEY,
    attempt TEXT NOT NULL UNIQUE REFERENCES attempts (id),
    payload TEXT NOT NULL UNIQUE REFERENCES payloads (id),
    pilot   TEXT NOT NULL REFERENCES pilots (id),
    renewed INTEGER NOT NULL
) STRICT;
CREATE INDEX leases_pilot ON leases (pilot);

CREATE TABLE wishes (
    id    TEXT PRIMARY KEY,
    lease TEXT NOT NULL REFERENCES leases (id) ON DELETE CASCADE,
    kind  TEXT NOT NULL,
    at    INTEGER NOT NULL
) STRICT;
CREATE INDEX wishes_lease ON wishes (lease);

CREATE TABLE events (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    payload TEXT NOT NULL,
    attempt TEXT,
    at      INTEGER NOT NULL,
    actor   TEXT NOT NULL,
    state   TEXT NOT NULL,
    cause   TEXT NOT NULL
) STRICT;
CREATE INDEX events_payload ON events (payload, seq);
CREATE TRIGGER events_stay BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'events are append only'); END;
CREATE TRIGGER events_last BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'events are append only'); END;

CREATE TABLE notices (                   -- ends of payloads that their owner's URL has not been told yet
    payload TEXT PRIMARY KEY REFERENCES payloads (id),
    url     TEXT NOT NULL,
    tries   INTEGER NOT NULL DEFAULT 0
) STRICT;

-- What one user stores is summed at each upload.
CREATE INDEX blob_owners_of ON blob_owners (owner);

PRAGMA user_version = 4;

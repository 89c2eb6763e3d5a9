-- A factory asks of each pilot whether it has ever had a payload.

CREATE INDEX attempts_pilot ON attempts (pilot);

PRAGMA user_version = 5;

-- What a list shows of a specification, so that listing does not read whole specifications.
ALTER TABLE specs ADD COLUMN brief TEXT;
UPDATE specs SET brief = json_object(
    'command', (SELECT json_group_array(substr(c.value, 1, 100)) FROM json_each(specs.json, '$.command') c WHERE c.key < 10),
    'cores', json -> '$.cores', 'memory', json -> '$.memory', 'walltime', json -> '$.walltime', 'ports', json -> '$.ports');

PRAGMA user_version = 3;

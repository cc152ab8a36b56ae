-- Loads the files that the variable `files` names, as schema.sql describes.

CREATE OR REPLACE TEMP TABLE lines AS
SELECT
    json AS line,
    try_cast(json ->> '$.time' AS TIMESTAMP_NS) AS time,
    try_cast(json ->> '$.seq' AS BIGINT) AS seq,
    json ->> '$.event' AS event,
    coalesce(json ->> '$.host', '') AS host,
    CASE
        WHEN json IS NULL THEN 'no JSON'
        WHEN json ->> '$.schema_version' IS DISTINCT FROM '1' THEN 'no event of schema_version 1'
        WHEN time IS NULL OR seq IS NULL THEN 'no time or seq'
    END AS reason
FROM read_ndjson_objects(getvariable('files'), ignore_errors = true, maximum_object_size = 33554432);

INSERT INTO rejected (reason, beginning)
SELECT reason, left(line::VARCHAR, 200) FROM lines WHERE reason IS NOT NULL;

INSERT OR IGNORE INTO pileup BY NAME
SELECT
    host,
    line ->> '$.id' AS id,
    time,
    seq,
    event,
    line ->> '$.state' AS state,
    line ->> '$.severity' AS severity,
    line ->> '$.service' AS service,
    line ->> '$.summary' AS summary,
    line ->> '$.group.role' AS role,
    (line ->> '$.group.netns')::BIGINT AS netns,
    (line ->> '$.group.local_port')::INTEGER AS port,
    line ->> '$.group.remote.address' AS remote_address,
    (line ->> '$.group.remote.port')::INTEGER AS remote_port,
    (line ->> '$.began')::TIMESTAMP_NS AS began,
    (line ->> '$.onset.first_stuck')::TIMESTAMP_NS AS first_stuck,
    (line ->> '$.count')::BIGINT AS count,
    (line ->> '$.slope_per_second')::DOUBLE AS slope_per_second,
    (line ->> '$.exhaustion_seconds')::DOUBLE AS exhaustion_seconds,
    line ->> '$.exhaustion.limit' AS exhaustion_limit,
    coalesce(line ->> '$.verdict.class', line ->> '$.last_verdict.class') AS class,
    coalesce(line ->> '$.verdict.rule', line ->> '$.last_verdict.rule') AS rule,
    coalesce(line ->> '$.verdict.certainty', line ->> '$.last_verdict.certainty') AS certainty,
    line ->> '$.evidence.unit' AS unit,
    line ->> '$.evidence.container' AS container,
    line ->> '$.evidence.pod' AS pod,
    line ->> '$.evidence.process.exe' AS exe,
    line ->> '$.evidence.process.runtime' AS runtime,
    coalesce(from_json(line -> '$.evidence.top_remotes', '[{"address": "VARCHAR", "count": "BIGINT"}]'), []) AS top_remotes,
    line ->> '$.how' AS how,
    (line ->> '$.most')::BIGINT AS most,
    line::VARCHAR AS line
FROM lines
WHERE reason IS NULL AND event IN ('pileup', 'pileup_end');

INSERT OR IGNORE INTO stuck BY NAME
SELECT
    host,
    time,
    seq,
    (line ->> '$.socket.netns')::BIGINT AS netns,
    (line ->> '$.socket.cookie')::UBIGINT AS cookie,
    line ->> '$.socket.role' AS role,
    (line ->> '$.socket.local.port')::INTEGER AS local_port,
    line ->> '$.socket.remote.address' AS remote_address,
    (line ->> '$.socket.remote.port')::INTEGER AS remote_port,
    line ->> '$.socket.unit' AS unit,
    line ->> '$.socket.container' AS container,
    line ->> '$.socket.pod' AS pod,
    line ->> '$.process.exe' AS exe,
    line ->> '$.process.runtime' AS runtime,
    line ->> '$.process.comm' AS comm,
    (line ->> '$.dwell_seconds')::DOUBLE AS dwell_seconds,
    line ->> '$.verdict.class' AS class,
    line ->> '$.verdict.rule' AS rule,
    line ->> '$.incident' AS incident
FROM lines
WHERE reason IS NULL AND event = 'stuck';

INSERT OR IGNORE INTO agent BY NAME
SELECT
    host,
    time,
    seq,
    event,
    line ->> '$.version' AS version,
    line ->> '$.kernel' AS kernel,
    line ->> '$.hook' AS hook,
    coalesce(line ->> '$.totals.lost_ring_full', line ->> '$.lost_ring_full')::BIGINT AS lost_ring_full,
    coalesce(line ->> '$.totals.lost_map_full', line ->> '$.lost_map_full')::BIGINT AS lost_map_full,
    coalesce(line ->> '$.totals.undecodable', line ->> '$.undecodable')::BIGINT AS undecodable,
    coalesce(line ->> '$.totals.untracked', line ->> '$.untracked')::BIGINT AS untracked,
    coalesce(line ->> '$.totals.unwritten', line ->> '$.unwritten')::BIGINT AS unwritten
FROM lines
WHERE reason IS NULL AND event NOT IN ('pileup', 'pileup_end', 'stuck');

DROP TABLE lines;

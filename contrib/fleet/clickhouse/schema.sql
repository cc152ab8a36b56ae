-- Tables for the events of `closewait run --output json` in ClickHouse. docs/fleet.md describes them.
--
--     clickhouse-client --database closewait --multiquery < schema.sql
--     clickhouse-client --database closewait --query 'INSERT INTO lines FORMAT LineAsString' < events.ndjson
--
-- Every line is one row of `lines`, which stores nothing: each view below takes the lines that it knows. A line that none
-- knows is counted in `rejected`, so a damaged line stops nothing.
--
-- A line is identified by its host, time and number (`host`, `time`, `seq`). Lines can come twice and in any order:
-- ReplacingMergeTree stores one of each, and queries read with FINAL. `host` is '' if the agent does not know its name.

CREATE TABLE lines (line String) ENGINE = Null;

-- Lines of events, on their way to the tables. An event of a type that closewait does not have yet goes to `agent`.
CREATE TABLE events (
    host String,
    time DateTime64(9, 'UTC'),
    seq UInt64,
    event String,
    line String
) ENGINE = Null;

CREATE MATERIALIZED VIEW events_of_lines TO events AS
SELECT
    JSONExtractString(line, 'host') AS host,
    parseDateTime64BestEffort(JSONExtractString(line, 'time'), 9, 'UTC') AS time,
    JSONExtractUInt(line, 'seq') AS seq,
    JSONExtractString(line, 'event') AS event,
    line
FROM lines
WHERE isValidJSON(line) AND JSONExtractUInt(line, 'schema_version') = 1 AND JSONHas(line, 'seq')
    AND parseDateTime64BestEffortOrNull(JSONExtractString(line, 'time'), 9, 'UTC') IS NOT NULL;

-- Incidents: events `pileup` and `pileup_end`. `how` and `most` are null until the incident ends; what is unknown is null.
CREATE TABLE pileup (
    host String,
    id String,
    time DateTime64(9, 'UTC'),
    seq UInt64,
    event LowCardinality(String),
    state LowCardinality(String),
    severity LowCardinality(String),
    service Nullable(String),
    summary String,
    role LowCardinality(Nullable(String)),
    netns Nullable(UInt64),
    port Nullable(UInt16),
    remote_address Nullable(String),
    remote_port Nullable(UInt16),
    began DateTime64(9, 'UTC'),
    first_stuck Nullable(DateTime64(9, 'UTC')),
    count UInt64,
    slope_per_second Nullable(Float64),
    exhaustion_seconds Nullable(Float64),
    exhaustion_limit LowCardinality(Nullable(String)),
    class LowCardinality(Nullable(String)),
    rule LowCardinality(Nullable(String)),
    certainty LowCardinality(Nullable(String)),
    unit Nullable(String),
    container Nullable(String),
    pod Nullable(String),
    exe Nullable(String),
    runtime LowCardinality(Nullable(String)),
    top_remotes Array(Tuple(address String, count UInt64)),
    how LowCardinality(Nullable(String)),
    most Nullable(UInt64),
    line String CODEC(ZSTD(3))
) ENGINE = ReplacingMergeTree
ORDER BY (host, time, seq)
TTL toDateTime(time) + INTERVAL 400 DAY;

CREATE MATERIALIZED VIEW pileup_of_lines TO pileup AS
WITH if(event = 'pileup', 'verdict', 'last_verdict') AS verdict
SELECT
    host,
    JSONExtractString(line, 'id') AS id,
    time,
    seq,
    event,
    JSONExtractString(line, 'state') AS state,
    JSONExtractString(line, 'severity') AS severity,
    JSONExtract(line, 'service', 'Nullable(String)') AS service,
    JSONExtractString(line, 'summary') AS summary,
    JSONExtract(line, 'group', 'role', 'Nullable(String)') AS role,
    JSONExtract(line, 'group', 'netns', 'Nullable(UInt64)') AS netns,
    JSONExtract(line, 'group', 'local_port', 'Nullable(UInt16)') AS port,
    JSONExtract(line, 'group', 'remote', 'address', 'Nullable(String)') AS remote_address,
    JSONExtract(line, 'group', 'remote', 'port', 'Nullable(UInt16)') AS remote_port,
    parseDateTime64BestEffort(JSONExtractString(line, 'began'), 9, 'UTC') AS began,
    parseDateTime64BestEffortOrNull(JSONExtractString(line, 'onset', 'first_stuck'), 9, 'UTC') AS first_stuck,
    JSONExtractUInt(line, 'count') AS count,
    JSONExtract(line, 'slope_per_second', 'Nullable(Float64)') AS slope_per_second,
    JSONExtract(line, 'exhaustion_seconds', 'Nullable(Float64)') AS exhaustion_seconds,
    JSONExtract(line, 'exhaustion', 'limit', 'Nullable(String)') AS exhaustion_limit,
    JSONExtract(line, verdict, 'class', 'Nullable(String)') AS class,
    JSONExtract(line, verdict, 'rule', 'Nullable(String)') AS rule,
    JSONExtract(line, verdict, 'certainty', 'Nullable(String)') AS certainty,
    JSONExtract(line, 'evidence', 'unit', 'Nullable(String)') AS unit,
    JSONExtract(line, 'evidence', 'container', 'Nullable(String)') AS container,
    nullIf(nullIf(JSONExtractRaw(line, 'evidence', 'pod'), ''), 'null') AS pod,
    JSONExtract(line, 'evidence', 'process', 'exe', 'Nullable(String)') AS exe,
    JSONExtract(line, 'evidence', 'process', 'runtime', 'Nullable(String)') AS runtime,
    JSONExtract(line, 'evidence', 'top_remotes', 'Array(Tuple(address String, count UInt64))') AS top_remotes,
    JSONExtract(line, 'how', 'Nullable(String)') AS how,
    JSONExtract(line, 'most', 'Nullable(UInt64)') AS most,
    line
FROM events
WHERE event IN ('pileup', 'pileup_end');

-- Stuck sockets: event `stuck`. Only with `--events stuck` or `all`; the agents of healthy hosts write them too.
CREATE TABLE stuck (
    host String,
    time DateTime64(9, 'UTC'),
    seq UInt64,
    netns Nullable(UInt64),
    cookie Nullable(UInt64),
    role LowCardinality(Nullable(String)),
    local_port UInt16,
    remote_address String,
    remote_port UInt16,
    unit Nullable(String),
    container Nullable(String),
    pod Nullable(String),
    exe Nullable(String),
    runtime LowCardinality(Nullable(String)),
    comm Nullable(String),
    dwell_seconds Nullable(Float64),
    class LowCardinality(String),
    rule LowCardinality(String),
    incident Nullable(String)
) ENGINE = ReplacingMergeTree
ORDER BY (host, time, seq)
TTL toDateTime(time) + INTERVAL 14 DAY;

CREATE MATERIALIZED VIEW stuck_of_lines TO stuck AS
SELECT
    host,
    time,
    seq,
    JSONExtract(line, 'socket', 'netns', 'Nullable(UInt64)') AS netns,
    JSONExtract(line, 'socket', 'cookie', 'Nullable(UInt64)') AS cookie,
    JSONExtract(line, 'socket', 'role', 'Nullable(String)') AS role,
    JSONExtract(line, 'socket', 'local', 'port', 'UInt16') AS local_port,
    JSONExtractString(line, 'socket', 'remote', 'address') AS remote_address,
    JSONExtract(line, 'socket', 'remote', 'port', 'UInt16') AS remote_port,
    JSONExtract(line, 'socket', 'unit', 'Nullable(String)') AS unit,
    JSONExtract(line, 'socket', 'container', 'Nullable(String)') AS container,
    nullIf(nullIf(JSONExtractRaw(line, 'socket', 'pod'), ''), 'null') AS pod,
    JSONExtract(line, 'process', 'exe', 'Nullable(String)') AS exe,
    JSONExtract(line, 'process', 'runtime', 'Nullable(String)') AS runtime,
    JSONExtract(line, 'process', 'comm', 'Nullable(String)') AS comm,
    JSONExtract(line, 'dwell_seconds', 'Nullable(Float64)') AS dwell_seconds,
    JSONExtractString(line, 'verdict', 'class') AS class,
    JSONExtractString(line, 'verdict', 'rule') AS rule,
    JSONExtract(line, 'incident', 'Nullable(String)') AS incident
FROM events
WHERE event = 'stuck';

-- Agents: one row of every other line. `start` has version, kernel and hook; `health` and `stop` have what was lost since
-- the start; every line has its number, so a gap in the numbers is a lost line.
CREATE TABLE agent (
    host String,
    time DateTime64(9, 'UTC'),
    seq UInt64,
    event LowCardinality(String),
    version LowCardinality(Nullable(String)),
    kernel LowCardinality(Nullable(String)),
    hook LowCardinality(Nullable(String)),
    lost_ring_full Nullable(UInt64),
    lost_map_full Nullable(UInt64),
    undecodable Nullable(UInt64),
    untracked Nullable(UInt64),
    unwritten Nullable(UInt64)
) ENGINE = ReplacingMergeTree
ORDER BY (host, time, seq)
TTL toDateTime(time) + INTERVAL 90 DAY;

CREATE MATERIALIZED VIEW agent_of_lines TO agent AS
WITH if(event = 'stop', JSONExtractRaw(line, 'totals'), line) AS totals
SELECT
    host,
    time,
    seq,
    event,
    JSONExtract(line, 'version', 'Nullable(String)') AS version,
    JSONExtract(line, 'kernel', 'Nullable(String)') AS kernel,
    JSONExtract(line, 'hook', 'Nullable(String)') AS hook,
    JSONExtract(totals, 'lost_ring_full', 'Nullable(UInt64)') AS lost_ring_full,
    JSONExtract(totals, 'lost_map_full', 'Nullable(UInt64)') AS lost_map_full,
    JSONExtract(totals, 'undecodable', 'Nullable(UInt64)') AS undecodable,
    JSONExtract(totals, 'untracked', 'Nullable(UInt64)') AS untracked,
    JSONExtract(totals, 'unwritten', 'Nullable(UInt64)') AS unwritten
FROM events
WHERE event NOT IN ('pileup', 'pileup_end', 'stuck');

-- Lines that no table has: no JSON, or of another version. They are counted, and stop nothing.
CREATE TABLE rejected (
    received DateTime DEFAULT now(),
    reason LowCardinality(String),
    bytes UInt64,
    beginning String
) ENGINE = MergeTree
ORDER BY received
TTL received + INTERVAL 14 DAY;

CREATE MATERIALIZED VIEW rejected_of_lines TO rejected AS
SELECT
    multiIf(
        NOT isValidJSON(line), 'no JSON',
        JSONExtractUInt(line, 'schema_version') != 1, 'no event of schema_version 1',
        parseDateTime64BestEffortOrNull(JSONExtractString(line, 'time'), 9, 'UTC') IS NULL OR NOT JSONHas(line, 'seq'), 'no time or seq',
        ''
    ) AS reason,
    length(line) AS bytes,
    substring(line, 1, 200) AS beginning
FROM lines
WHERE line != '' AND reason != '';

-- The time that the queries take as now. Replace it to ask about the past.
CREATE VIEW clock AS SELECT now64(9, 'UTC') AS now;

-- Agents, one row per host: the latest start, and the latest line of any type.
CREATE VIEW agents AS
SELECT
    host,
    maxIf(time, event = 'start') AS started,
    argMaxIf(event, (time, seq), event IN ('start', 'stop')) AS last_of_run,
    argMaxIf(version, (time, seq), event = 'start') AS version,
    argMaxIf(kernel, (time, seq), event = 'start') AS kernel,
    max(time) AS last_line
FROM (
    SELECT host, time, seq, event, version, kernel FROM agent FINAL
    UNION ALL
    SELECT host, time, seq, event, NULL, NULL FROM pileup FINAL
    UNION ALL
    SELECT host, time, seq, 'stuck', NULL, NULL FROM stuck FINAL
)
GROUP BY host;

-- Incidents, one row each: the last report, and the end if there is one after it.
CREATE VIEW incidents AS
SELECT
    report.*,
    if(ended.time > report.time, 'resolved', report.state) AS state_now,
    if(ended.time > report.time, ended.time, NULL) AS ended_at,
    if(ended.time > report.time, ended.how, NULL) AS ended_how
FROM (
    SELECT * FROM pileup FINAL WHERE event = 'pileup' ORDER BY time DESC, seq DESC LIMIT 1 BY host, id
) AS report
LEFT JOIN (
    SELECT host, id, time, how FROM pileup FINAL WHERE event = 'pileup_end' ORDER BY time DESC, seq DESC LIMIT 1 BY host, id
) AS ended ON ended.host = report.host AND ended.id = report.id;

-- Properties of hosts: of each incident that is not resolved (with the class of its cause), and of each host that never had
-- an incident (`class` is ''). What runs on a healthy host is known only from its `stuck` events, which have no `service`.
CREATE VIEW properties AS
SELECT DISTINCT class, host, pairs.1 AS kind, assumeNotNull(pairs.2) AS value
FROM (
    SELECT ifNull(class, 'unknown') AS class, host, [('unit', unit), ('exe', exe)] AS pairs
    FROM incidents WHERE state_now != 'resolved'
    UNION ALL
    SELECT ifNull(class, 'unknown'), host, arrayMap(remote -> ('peer', toNullable(remote.address)), top_remotes)
    FROM incidents WHERE state_now != 'resolved'
    UNION ALL
    SELECT ifNull(incidents.class, 'unknown'), host, [('kernel', agents.kernel), ('agent', agents.version)]
    FROM incidents JOIN agents ON agents.host = incidents.host WHERE state_now != 'resolved'
    UNION ALL
    SELECT '', host, [('unit', unit), ('exe', exe), ('peer', toNullable(remote_address))]
    FROM stuck FINAL WHERE host NOT IN (SELECT host FROM pileup)
    UNION ALL
    SELECT '', host, [('kernel', kernel), ('agent', version)]
    FROM agents WHERE host NOT IN (SELECT host FROM pileup)
)
ARRAY JOIN pairs
WHERE pairs.2 IS NOT NULL;

-- Tables for the events of `closewait run --output json` in DuckDB. docs/fleet.md describes them.
--
--     duckdb fleet.db -c ".read schema.sql"
--     duckdb fleet.db -c "SET VARIABLE files = 'events/*.ndjson'" -c ".read load.sql"
--
-- A line is identified by its host, time and number (`host`, `time`, `seq`): load.sql ignores a line that is there already, so
-- lines can come twice and in any order. `host` is '' if the agent does not know its name. What is unknown is null.

-- Incidents: events `pileup` and `pileup_end`. `how` and `most` are null until the incident ends.
CREATE TABLE pileup (
    host VARCHAR,
    id VARCHAR,
    time TIMESTAMP_NS,
    seq BIGINT,
    event VARCHAR,
    state VARCHAR,
    severity VARCHAR,
    service VARCHAR,
    summary VARCHAR,
    role VARCHAR,
    netns BIGINT,
    port INTEGER,
    remote_address VARCHAR,
    remote_port INTEGER,
    began TIMESTAMP_NS,
    first_stuck TIMESTAMP_NS,
    count BIGINT,
    slope_per_second DOUBLE,
    exhaustion_seconds DOUBLE,
    exhaustion_limit VARCHAR,
    class VARCHAR,
    rule VARCHAR,
    certainty VARCHAR,
    unit VARCHAR,
    container VARCHAR,
    pod VARCHAR,
    exe VARCHAR,
    runtime VARCHAR,
    top_remotes STRUCT(address VARCHAR, count BIGINT)[],
    how VARCHAR,
    most BIGINT,
    line VARCHAR,
    PRIMARY KEY (host, time, seq)
);

-- Stuck sockets: event `stuck`. Only with `--events stuck` or `all`; the agents of healthy hosts write them too.
CREATE TABLE stuck (
    host VARCHAR,
    time TIMESTAMP_NS,
    seq BIGINT,
    netns BIGINT,
    cookie UBIGINT,
    role VARCHAR,
    local_port INTEGER,
    remote_address VARCHAR,
    remote_port INTEGER,
    unit VARCHAR,
    container VARCHAR,
    pod VARCHAR,
    exe VARCHAR,
    runtime VARCHAR,
    comm VARCHAR,
    dwell_seconds DOUBLE,
    class VARCHAR,
    rule VARCHAR,
    incident VARCHAR,
    PRIMARY KEY (host, time, seq)
);

-- Agents: one row of every other line. `start` has version, kernel and hook; `health` and `stop` have what was lost since
-- the start; every line has its number, so a gap in the numbers is a lost line.
CREATE TABLE agent (
    host VARCHAR,
    time TIMESTAMP_NS,
    seq BIGINT,
    event VARCHAR,
    version VARCHAR,
    kernel VARCHAR,
    hook VARCHAR,
    lost_ring_full BIGINT,
    lost_map_full BIGINT,
    undecodable BIGINT,
    untracked BIGINT,
    unwritten BIGINT,
    PRIMARY KEY (host, time, seq)
);

-- Lines that no table has: no JSON, or of another version. They are counted, and stop nothing. DuckDB does not keep the text of
-- a line that is no JSON.
CREATE TABLE rejected (received TIMESTAMP DEFAULT now(), reason VARCHAR, beginning VARCHAR);

-- The time that the queries take as now. Replace it to ask about the past.
CREATE VIEW clock AS SELECT now() AT TIME ZONE 'UTC' AS now;

-- Agents, one row per host: the latest start, and the latest line of any type.
CREATE VIEW agents AS
SELECT
    host,
    max(time) FILTER (event = 'start') AS started,
    arg_max(event, (time, seq)) FILTER (event IN ('start', 'stop')) AS last_of_run,
    arg_max(version, (time, seq)) FILTER (event = 'start') AS version,
    arg_max(kernel, (time, seq)) FILTER (event = 'start') AS kernel,
    max(time) AS last_line
FROM (
    SELECT host, time, seq, event, version, kernel FROM agent
    UNION ALL
    SELECT host, time, seq, event, NULL, NULL FROM pileup
    UNION ALL
    SELECT host, time, seq, 'stuck', NULL, NULL FROM stuck
)
GROUP BY host;

-- Incidents, one row each: the last report, and the end if there is one after it.
CREATE VIEW incidents AS
SELECT
    report.*,
    CASE WHEN ended.time > report.time THEN 'resolved' ELSE report.state END AS state_now,
    CASE WHEN ended.time > report.time THEN ended.time END AS ended_at,
    CASE WHEN ended.time > report.time THEN ended.how END AS ended_how
FROM (
    SELECT * FROM pileup WHERE event = 'pileup'
    QUALIFY row_number() OVER (PARTITION BY host, id ORDER BY time DESC, seq DESC) = 1
) AS report
LEFT JOIN (
    SELECT host, id, time, how FROM pileup WHERE event = 'pileup_end'
    QUALIFY row_number() OVER (PARTITION BY host, id ORDER BY time DESC, seq DESC) = 1
) AS ended USING (host, id);

-- Properties of hosts: of each incident that is not resolved (with the class of its cause), and of each host that never had
-- an incident (`class` is ''). What runs on a healthy host is known only from its `stuck` events, which have no `service`.
CREATE VIEW properties AS
WITH
    leaking AS (
        SELECT coalesce(class, 'unknown') AS class, host, unit, exe, top_remotes, agents.kernel, agents.version
        FROM incidents JOIN agents USING (host)
        WHERE state_now != 'resolved'
    ),
    healthy AS (SELECT * FROM agents WHERE host NOT IN (SELECT host FROM pileup)),
    all_properties AS (
        SELECT class, host, 'unit' AS kind, unit AS value FROM leaking
        UNION ALL SELECT class, host, 'exe', exe FROM leaking
        UNION ALL SELECT class, host, 'peer', unnest(top_remotes).address FROM leaking
        UNION ALL SELECT class, host, 'kernel', kernel FROM leaking
        UNION ALL SELECT class, host, 'agent', version FROM leaking
        UNION ALL SELECT '', host, 'unit', unit FROM stuck SEMI JOIN healthy USING (host)
        UNION ALL SELECT '', host, 'exe', exe FROM stuck SEMI JOIN healthy USING (host)
        UNION ALL SELECT '', host, 'peer', remote_address FROM stuck SEMI JOIN healthy USING (host)
        UNION ALL SELECT '', host, 'kernel', kernel FROM healthy
        UNION ALL SELECT '', host, 'agent', version FROM healthy
    )
SELECT DISTINCT class, host, kind, value FROM all_properties WHERE value IS NOT NULL;

-- Questions about a fleet, on the tables of schema.sql. Each begins with `-- name:`. `cargo xtask fleet` runs all of them and
-- compares the answers. docs/fleet.md shows the answers, and what events cannot answer.

-- name: open_incidents
-- Which hosts have an open incident now, the most severe first? `agent` is `running`, or tells why the row may be out of date:
-- `restarted` since the last report, `stopped`, or `silent` (no line for 5 minutes).
SELECT
    host, severity, ifNull(class, 'unknown') AS class, service, count, toDateTime(began) AS began, id,
    multiIf(
        agents.last_of_run = 'stop', 'stopped',
        agents.last_line < clock.now - INTERVAL 5 MINUTE, 'silent',
        agents.started > incidents.time, 'restarted',
        'running'
    ) AS agent
FROM incidents
JOIN agents ON agents.host = incidents.host
CROSS JOIN clock
WHERE state_now != 'resolved'
ORDER BY indexOf(['critical', 'error', 'warning', 'info'], severity), incidents.began, host, id;

-- name: shared_by_leaking
-- Which units, programs, peers, kernels and agents do the hosts with an open incident share, and healthy hosts not?
-- One list for each class of cause, the largest difference first. `healthy` counts hosts that never had an incident.
WITH
    leaking_with AS (
        SELECT class, kind, value, uniqExact(host) AS leaking FROM properties WHERE class != '' GROUP BY class, kind, value
    ),
    healthy_with AS (
        SELECT kind, value, uniqExact(host) AS healthy FROM properties WHERE class = '' GROUP BY kind, value
    ),
    totals AS (SELECT class, uniqExact(host) AS of_leaking FROM properties WHERE class != '' GROUP BY class)
SELECT
    leaking_with.class AS class, leaking_with.kind AS kind, leaking_with.value AS value, leaking, of_leaking, healthy,
    (SELECT count() FROM agents WHERE host NOT IN (SELECT host FROM pileup)) AS of_healthy
FROM leaking_with
JOIN totals ON totals.class = leaking_with.class
LEFT JOIN healthy_with ON healthy_with.kind = leaking_with.kind AND healthy_with.value = leaking_with.value
WHERE leaking / of_leaking > healthy / greatest(of_healthy, 1)
ORDER BY class, leaking / of_leaking - healthy / greatest(of_healthy, 1) DESC, kind, value;

-- name: first_host
-- Where and when did it begin? The first host of each service and cause, and the number of hosts since then. The time is the
-- entry of the oldest stuck socket.
SELECT
    service, ifNull(class, 'unknown') AS class,
    argMin(host, (ifNull(first_stuck, began), host)) AS first,
    toDateTime(min(ifNull(first_stuck, began))) AS since,
    uniqExact(host) AS hosts
FROM incidents
GROUP BY service, class
ORDER BY since, service, class;

-- name: still_growing
-- Which open incidents grow, and when is the limit reached? `full_at` is the forecast of the last report; null without one.
SELECT
    host, service, count, round(slope_per_second, 1) AS per_second, exhaustion_limit AS limited_by,
    toDateTime(addMicroseconds(time, toInt64(exhaustion_seconds * 1e6))) AS full_at,
    if(full_at IS NULL, NULL, greatest(0, dateDiff('second', clock.now, full_at))) AS seconds_left
FROM incidents
CROSS JOIN clock
WHERE state_now != 'resolved' AND slope_per_second > 0
ORDER BY full_at NULLS LAST, host, id;

-- name: came_back
-- Which incidents came back after a restart? Of the program: the earlier incident ended with its process, and a new one began
-- at the same place. Of the agent: it started again, and reported the same incident (`--pin`).
SELECT host, service, restarted, id, again_as, toDateTime(again) AS again
FROM (
    SELECT
        earlier.host AS host, earlier.service AS service, 'program' AS restarted, earlier.id AS id, later.id AS again_as,
        later.began AS again
    FROM incidents AS earlier
    JOIN incidents AS later ON later.host = earlier.host
    WHERE earlier.ended_how = 'process_ended' AND later.id != earlier.id AND later.began > earlier.ended_at
        AND later.service IS NOT DISTINCT FROM earlier.service AND later.role IS NOT DISTINCT FROM earlier.role
        AND later.port IS NOT DISTINCT FROM earlier.port
        AND later.remote_address IS NOT DISTINCT FROM earlier.remote_address
        AND later.remote_port IS NOT DISTINCT FROM earlier.remote_port
    UNION ALL
    SELECT report.host, any(report.service), 'agent', report.id, report.id, start.time
    FROM (SELECT host, id, time, service FROM pileup FINAL WHERE event = 'pileup') AS report
    JOIN (SELECT host, time FROM agent FINAL WHERE event = 'start') AS start ON start.host = report.host
    GROUP BY report.host, report.id, start.time
    HAVING min(report.time) < start.time AND max(report.time) > start.time
)
ORDER BY restarted, host, again;

-- name: silent_hosts
-- Which agents went silent, or stopped? `open_incidents` are those that nobody reports since. Agents with `--events incidents`
-- write nothing while nothing happens: for those, use another sign of life.
SELECT
    agents.host AS host, if(last_of_run = 'stop', 'stopped', 'silent') AS agent, toDateTime(last_line) AS since,
    countIf(state_now != 'resolved' AND id != '') AS open_incidents
FROM agents
LEFT JOIN incidents ON incidents.host = agents.host
CROSS JOIN clock
WHERE last_of_run = 'stop' OR last_line < clock.now - INTERVAL 5 MINUTE
GROUP BY host, last_of_run, last_line
ORDER BY last_line, host;

-- name: lost_events
-- Which agents lost something since their start? `missing_lines` are gaps in the numbers: lines that the agent dropped, or that
-- were lost on the way. The other counts are the agent's own.
SELECT
    host, toDateTime(started) AS started,
    max(seq) - min(seq) + 1 - uniqExact(seq) AS missing_lines,
    max(dropped) AS lines_dropped, max(lost) AS lost_in_kernel, max(skipped) AS untracked
FROM (
    SELECT
        host, seq, dropped, lost, skipped,
        maxIf(time, event = 'start') OVER (PARTITION BY host ORDER BY time, seq) AS started
    FROM (
        SELECT
            host, time, seq, event, ifNull(unwritten, 0) AS dropped, ifNull(untracked, 0) AS skipped,
            ifNull(lost_ring_full, 0) + ifNull(lost_map_full, 0) + ifNull(undecodable, 0) AS lost
        FROM agent FINAL
        UNION ALL
        SELECT host, time, seq, event, 0, 0, 0 FROM pileup FINAL
        UNION ALL
        SELECT host, time, seq, 'stuck', 0, 0, 0 FROM stuck FINAL
    )
)
GROUP BY host, started
HAVING missing_lines > 0 OR lines_dropped > 0 OR lost_in_kernel > 0 OR untracked > 0
ORDER BY missing_lines DESC, host, started;

-- name: top_peers
-- Which peers have the most sockets in open incidents? The agent names the most frequent addresses of each incident.
SELECT remote.address AS peer, sum(remote.count) AS sockets, uniqExact(host) AS hosts, arraySort(groupUniqArray(service)) AS services
FROM incidents
ARRAY JOIN top_remotes AS remote
WHERE state_now != 'resolved'
GROUP BY peer
ORDER BY sockets DESC, peer
LIMIT 20;

-- name: rejected_lines
-- Which lines could not be read, and why?
SELECT reason, count() AS lines FROM rejected GROUP BY reason ORDER BY reason;

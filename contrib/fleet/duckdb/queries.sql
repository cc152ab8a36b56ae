-- Questions about a fleet, on the tables of schema.sql. Each begins with `-- name:`. `cargo xtask fleet` runs all of them and
-- compares the answers. docs/fleet.md shows the answers, and what events cannot answer.

-- name: open_incidents
-- Which hosts have an open incident now, the most severe first? `agent` is `running`, or tells why the row may be out of date:
-- `restarted` since the last report, `stopped`, or `silent` (no line for 5 minutes).
SELECT
    host, severity, coalesce(class, 'unknown') AS class, service, count, date_trunc('second', began) AS began, id,
    CASE
        WHEN last_of_run = 'stop' THEN 'stopped'
        WHEN last_line < now - INTERVAL 5 MINUTE THEN 'silent'
        WHEN started > time THEN 'restarted'
        ELSE 'running'
    END AS agent
FROM incidents
JOIN agents USING (host)
CROSS JOIN clock
WHERE state_now != 'resolved'
ORDER BY list_position(['critical', 'error', 'warning', 'info'], severity), incidents.began, host, id;

-- name: shared_by_leaking
-- Which units, programs, peers, kernels and agents do the hosts with an open incident share, and healthy hosts not?
-- One list for each class of cause, the largest difference first. `healthy` counts hosts that never had an incident.
WITH
    leaking_with AS (
        SELECT class, kind, value, count(DISTINCT host) AS leaking FROM properties WHERE class != '' GROUP BY ALL
    ),
    healthy_with AS (
        SELECT kind, value, count(DISTINCT host) AS healthy FROM properties WHERE class = '' GROUP BY ALL
    ),
    totals AS (SELECT class, count(DISTINCT host) AS of_leaking FROM properties WHERE class != '' GROUP BY class),
    all_healthy AS (SELECT count(*) AS of_healthy FROM agents WHERE host NOT IN (SELECT host FROM pileup))
SELECT class, kind, value, leaking, of_leaking, coalesce(healthy, 0) AS healthy, of_healthy
FROM leaking_with
JOIN totals USING (class)
LEFT JOIN healthy_with USING (kind, value)
CROSS JOIN all_healthy
WHERE leaking / of_leaking > coalesce(healthy, 0) / greatest(of_healthy, 1)
ORDER BY class, leaking / of_leaking - coalesce(healthy, 0) / greatest(of_healthy, 1) DESC, kind, value;

-- name: first_host
-- Where and when did it begin? The first host of each service and cause, and the number of hosts since then. The time is the
-- entry of the oldest stuck socket.
SELECT
    service, coalesce(class, 'unknown') AS class,
    arg_min(host, (coalesce(first_stuck, began), host)) AS first,
    date_trunc('second', min(coalesce(first_stuck, began))) AS since,
    count(DISTINCT host) AS hosts
FROM incidents
GROUP BY ALL
ORDER BY since, service, class;

-- name: still_growing
-- Which open incidents grow, and when is the limit reached? `full_at` is the forecast of the last report; null without one.
SELECT
    host, service, count, round(slope_per_second, 1) AS per_second, exhaustion_limit AS limited_by,
    date_trunc('second', time + to_microseconds((exhaustion_seconds * 1e6)::BIGINT)) AS full_at,
    CASE WHEN full_at IS NOT NULL THEN greatest(0, date_diff('second', now, full_at)) END AS seconds_left
FROM incidents
CROSS JOIN clock
WHERE state_now != 'resolved' AND slope_per_second > 0
ORDER BY full_at NULLS LAST, host, id;

-- name: came_back
-- Which incidents came back after a restart? Of the program: the earlier incident ended with its process, and a new one began
-- at the same place. Of the agent: it started again, and reported the same incident (`--pin`).
SELECT host, service, restarted, id, again_as, date_trunc('second', again) AS again
FROM (
    SELECT earlier.host, earlier.service, 'program' AS restarted, earlier.id, later.id AS again_as, later.began AS again
    FROM incidents AS earlier
    JOIN incidents AS later ON later.host = earlier.host
    WHERE earlier.ended_how = 'process_ended' AND later.id != earlier.id AND later.began > earlier.ended_at
        AND later.service IS NOT DISTINCT FROM earlier.service AND later.role IS NOT DISTINCT FROM earlier.role
        AND later.port IS NOT DISTINCT FROM earlier.port
        AND later.remote_address IS NOT DISTINCT FROM earlier.remote_address
        AND later.remote_port IS NOT DISTINCT FROM earlier.remote_port
    UNION ALL
    SELECT report.host, any_value(report.service), 'agent', report.id, report.id, start.time
    FROM pileup AS report
    JOIN agent AS start ON start.host = report.host
    WHERE report.event = 'pileup' AND start.event = 'start'
    GROUP BY report.host, report.id, start.time
    HAVING min(report.time) < start.time AND max(report.time) > start.time
)
ORDER BY restarted, host, again;

-- name: silent_hosts
-- Which agents went silent, or stopped? `open_incidents` are those that nobody reports since. Agents with `--events incidents`
-- write nothing while nothing happens: for those, use another sign of life.
SELECT
    agents.host, CASE last_of_run WHEN 'stop' THEN 'stopped' ELSE 'silent' END AS agent,
    date_trunc('second', last_line) AS since,
    count(id) FILTER (state_now != 'resolved') AS open_incidents
FROM agents
LEFT JOIN incidents USING (host)
CROSS JOIN clock
WHERE last_of_run = 'stop' OR last_line < now - INTERVAL 5 MINUTE
GROUP BY agents.host, last_of_run, last_line
ORDER BY last_line, host;

-- name: lost_events
-- Which agents lost something since their start? `missing_lines` are gaps in the numbers: lines that the agent dropped, or that
-- were lost on the way. The other counts are the agent's own.
SELECT
    host, date_trunc('second', started) AS started,
    max(seq) - min(seq) + 1 - count(DISTINCT seq) AS missing_lines,
    max(dropped) AS lines_dropped, max(lost) AS lost_in_kernel, max(skipped) AS untracked
FROM (
    SELECT
        host, seq, dropped, lost, skipped,
        max(time) FILTER (event = 'start') OVER (PARTITION BY host ORDER BY time, seq) AS started
    FROM (
        SELECT
            host, time, seq, event, coalesce(unwritten, 0) AS dropped, coalesce(untracked, 0) AS skipped,
            coalesce(lost_ring_full, 0) + coalesce(lost_map_full, 0) + coalesce(undecodable, 0) AS lost
        FROM agent
        UNION ALL
        SELECT host, time, seq, event, 0, 0, 0 FROM pileup
        UNION ALL
        SELECT host, time, seq, 'stuck', 0, 0, 0 FROM stuck
    )
)
GROUP BY host, started
HAVING missing_lines > 0 OR lines_dropped > 0 OR lost_in_kernel > 0 OR untracked > 0
ORDER BY missing_lines DESC, host, started;

-- name: top_peers
-- Which peers have the most sockets in open incidents? The agent names the most frequent addresses of each incident.
SELECT
    remote.address AS peer, sum(remote.count)::BIGINT AS sockets, count(DISTINCT host) AS hosts,
    coalesce(list_sort(list_distinct(list(service))), []) AS services
FROM (SELECT host, service, unnest(top_remotes) AS remote FROM incidents WHERE state_now != 'resolved')
GROUP BY peer
ORDER BY sockets DESC, peer
LIMIT 20;

-- name: rejected_lines
-- Which lines could not be read, and why?
SELECT reason, count(*) AS lines FROM rejected GROUP BY reason ORDER BY reason;

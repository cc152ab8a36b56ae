-- Deletes what is older than the retention of each table: run it once a day. ClickHouse does this by itself (TTL).

DELETE FROM pileup WHERE time < (SELECT now - INTERVAL 400 DAY FROM clock);
DELETE FROM agent WHERE time < (SELECT now - INTERVAL 90 DAY FROM clock);
DELETE FROM stuck WHERE time < (SELECT now - INTERVAL 14 DAY FROM clock);
DELETE FROM rejected WHERE received < (SELECT now - INTERVAL 14 DAY FROM clock);

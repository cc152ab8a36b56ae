"""Runs the statements of a file, each a JSON string on its own line, in the ClickHouse database of a folder. The arguments are the
folder and the file. Prints the rows or the error of each as one line of JSON."""

import json
import sys

from chdb.session import Session

session = Session(sys.argv[1])
with open(sys.argv[2], encoding="utf-8") as file:
    statements = [json.loads(line) for line in file]
for statement in statements:
    try:
        # Not splitlines: names may contain other line separators.
        rows = str(session.query(statement, "JSONEachRow")).split("\n")
        answer = {"rows": [json.loads(row) for row in rows if row]}
    except Exception as error:
        answer = {"error": str(error)}
    print(json.dumps(answer), flush=True)

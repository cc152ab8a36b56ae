//! ClickHouse (as the library chdb) and DuckDB, from packages in a venv of their own.

use crate::prelude::*;

/// Program that runs statements in chdb.
const CHDB: &str = include_str!("chdb.py");
/// Begins the name of a query.
const NAME: &str = "-- name: ";

/// Engine with the tables and queries of its folder in contrib/fleet.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) name: &'static str,
    /// Folder with `schema.sql` and `queries.sql`.
    sql: PathBuf,
    /// Folder or file of the database.
    database: PathBuf,
    programs: PathBuf,
}

impl Engine {
    /// Returns both engines, with new databases in a folder.
    pub(crate) fn all(workspace: &Workspace, programs: &Path, dir: &Path) -> [Self; 2] {
        ["clickhouse", "duckdb"].map(|name| Self {
            name,
            sql: workspace.root.join("contrib/fleet").join(name),
            database: dir.join(format!("database-{name}")),
            programs: programs.to_owned(),
        })
    }

    /// Creates the tables, and loads the files one after the other. `now` is the time that the queries take as now.
    pub(crate) fn load(&self, files: &[PathBuf], now: &str) -> Result<()> {
        let schema = fs::read_to_string(self.sql.join("schema.sql"))?;
        let shown = |file: &PathBuf| file.display().to_string().replace('\'', "''");
        let mut statements = statements(&schema);
        if self.name == "clickhouse" {
            statements.push("DROP VIEW clock".to_owned());
            statements.push(format!("CREATE VIEW clock AS SELECT toDateTime64('{now}', 9, 'UTC') AS now"));
            let load = |file| {
                format!("INSERT INTO lines SELECT line FROM file('{}', LineAsString, 'line String')", shown(file))
            };
            let mut loads = files.iter().map(load);
            statements.extend(loads.next());
            // Lines that are older than the retention go with a merge, and are in the first file. The duplicates in the other
            // files stay, so that the queries have to ignore them.
            statements.extend(["pileup", "stuck", "agent"].map(|table| format!("OPTIMIZE TABLE {table} FINAL")));
            statements.extend(loads);
        } else {
            statements.push(format!("CREATE OR REPLACE VIEW clock AS SELECT TIMESTAMP '{now}' AS now"));
            let load = self::statements(&fs::read_to_string(self.sql.join("load.sql"))?);
            for file in files {
                statements.push(format!("SET VARIABLE files = '{}'", shown(file)));
                statements.extend(load.iter().cloned());
            }
            statements.extend(self::statements(&fs::read_to_string(self.sql.join("retention.sql"))?));
        }
        self.ask(&statements)?;
        Ok(())
    }

    /// Returns the rows that each query of the folder gives, with its name.
    pub(crate) fn answers(&self) -> Result<Vec<(String, Vec<Value>)>> {
        let text = fs::read_to_string(self.sql.join("queries.sql"))?;
        let queries = queries(&text);
        let sql: Vec<_> = queries.iter().map(|(_name, sql)| sql.clone()).collect();
        let rows = self.ask(&sql)?;
        Ok(queries.into_iter().map(|(name, _sql)| name).zip(rows).collect())
    }

    /// Returns the number of rows of each table.
    pub(crate) fn rows(&self) -> Result<Vec<(&'static str, u64)>> {
        let tables = ["pileup", "stuck", "agent", "rejected"];
        let end = if self.name == "clickhouse" { " FINAL" } else { "" };
        let count = |table: &str| {
            let end = if table == "rejected" { "" } else { end };
            format!("SELECT count(*) AS count FROM {table}{end}")
        };
        let rows = self.ask(&tables.map(count))?;
        let number = |rows: &Vec<Value>| rows.first().and_then(|row| row["count"].as_u64());
        let numbers = rows.iter().map(|rows| number(rows).context("no count"));
        tables.into_iter().zip(numbers).map(|(table, number)| Ok((table, number?))).collect()
    }

    /// Returns the bytes that each table takes on disk; `None` if the engine does not tell.
    pub(crate) fn bytes(&self) -> Result<Option<Value>> {
        if self.name != "clickhouse" {
            return Ok(None);
        }
        let sql = "SELECT table, sum(rows) AS rows, sum(bytes_on_disk) AS bytes FROM system.parts \
            WHERE active AND database = currentDatabase() GROUP BY table ORDER BY table";
        Ok(self.ask(&[sql.to_owned()])?.pop().map(Value::Array))
    }

    /// Returns the rows that each statement gives. A statement that fails is an error.
    fn ask(&self, statements: &[String]) -> Result<Vec<Vec<Value>>> {
        if self.name == "clickhouse" { self.ask_chdb(statements) } else { self.ask_duckdb(statements) }
    }

    fn ask_chdb(&self, statements: &[String]) -> Result<Vec<Vec<Value>>> {
        let setting = "SET output_format_json_quote_64bit_integers = 0".to_owned();
        let statements: Vec<_> = std::iter::once(&setting).chain(statements).collect();
        let input = self.database.with_extension("statements");
        let lines: String =
            statements.iter().map(|statement| format!("{}\n", Value::from(statement.as_str()))).collect();
        fs::write(&input, lines)?;
        let mut command = Command::new(self.programs.join("python"));
        command.args(["-c", CHDB]).arg(&self.database).arg(&input).stdin(Stdio::null());
        let output = exec::output(&mut command)?;
        let mut answers = Vec::new();
        for (line, statement) in output.lines().zip(&statements) {
            let answer: Value = serde_json::from_str(line).with_context(|| format!("chdb printed no JSON: {line}"))?;
            let rows = answer["rows"].as_array();
            answers.push(rows.with_context(|| format!("clickhouse: {}\n{statement}", answer["error"]))?.clone());
        }
        ensure!(
            answers.len() == statements.len(),
            "chdb answered {} of {} statements",
            answers.len(),
            statements.len()
        );
        // The setting has no rows.
        Ok(answers.split_off(1))
    }

    fn ask_duckdb(&self, statements: &[String]) -> Result<Vec<Vec<Value>>> {
        let mut command = Command::new(self.programs.join("duckdb"));
        command.args(["-json", "-bail"]).arg(&self.database);
        let end = "-- end of the answer";
        let line = format!("{end}\n");
        for statement in statements {
            command.args(["-c", statement, "-c", &format!(".print {end}")]);
        }
        let text = exec::quiet(&mut command)?;
        let answers = text.split(&line).map(str::trim).take(statements.len());
        let parse = |answer: &str| -> Result<Vec<Value>> {
            if answer.is_empty() {
                return Ok(Vec::new());
            }
            serde_json::from_str(answer).with_context(|| format!("duckdb: no rows: {answer}"))
        };
        answers.map(parse).collect()
    }
}

/// Returns the statements of a file, without its comments.
fn statements(text: &str) -> Vec<String> {
    let code: Vec<_> = text.lines().filter(|line| !line.starts_with("--")).collect();
    code.join("\n")
        .split(";\n")
        .map(|statement| statement.trim().trim_end_matches(';').to_owned())
        .filter(|s| !s.is_empty())
        .collect()
}

/// Returns the queries of a file, with their names.
fn queries(text: &str) -> Vec<(String, String)> {
    let parts = text.split(NAME).skip(1).filter_map(|part| part.split_once('\n'));
    parts.filter_map(|(name, sql)| Some((name.trim().to_owned(), statements(sql).pop()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_split_into_named_queries() {
        let text = "-- About.\n\n-- name: one\n-- Why?\nSELECT ';'\nFROM a;\n\n-- name: two\nSELECT 2;\n";
        let wanted = [("one", "SELECT ';'\nFROM a"), ("two", "SELECT 2")];
        assert_eq!(queries(text), wanted.map(|(name, sql)| (name.to_owned(), sql.to_owned())));
        assert_eq!(statements("-- a;\nCREATE a;\n-- b\nDROP b;\n"), ["CREATE a", "DROP b"]);
    }
}

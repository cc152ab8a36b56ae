//! Tables in Markdown, written exactly as the pages in docs/ and README.md have them.

/// Returns a table. The cells of the header and of each row are separated by ` | `.
pub(crate) fn table(header: &str, rows: impl IntoIterator<Item = String>) -> String {
    let rule = "---|".repeat(header.split(" | ").count());
    let rows: String = rows.into_iter().map(|row| format!("| {row} |\n")).collect();
    format!("| {header} |\n|{rule}\n{rows}")
}

/// Returns text that does not end its cell.
pub(crate) fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_a_header_a_rule_and_rows() {
        assert_eq!(table("a | b", [format!("1 | {}", cell("x|y"))]), "| a | b |\n|---|---|\n| 1 | x\\|y |\n");
    }
}

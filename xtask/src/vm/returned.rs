//! Files that a guest gives back. It has no disk, so it prints them.

use crate::prelude::*;

/// Beginning of the line before a file, which names it.
const BEGINS: &str = "closewait-vm: file begins ";
/// Line behind a file.
const ENDS: &str = "closewait-vm: file ends";

/// Saves the files of a guest in a folder. Returns their paths.
pub(super) fn save(lines: &[String], folder: &Path) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(folder)?;
    let saved = files(lines).map(|(name, encoded)| {
        let path = folder.join(name);
        let text = path.with_extension("base64");
        fs::write(&text, encoded.join("\n"))?;
        let mut command = Command::new("busybox");
        command.args(["sh", "-c", "busybox base64 -d \"$0\" >\"$1\""]).args([&text, &path]);
        exec::quiet(&mut command).with_context(|| format!("the guest printed no whole {name}"))?;
        fs::remove_file(&text)?;
        Ok(path)
    });
    saved.collect()
}

/// Returns name and lines of each file that is there to its end.
fn files(lines: &[String]) -> impl Iterator<Item = (&str, &[String])> {
    lines.iter().enumerate().filter_map(|(at, line)| {
        let (_before, name) = line.split_once(BEGINS)?;
        let rest = &lines[at + 1..];
        let end = rest.iter().position(|line| line == ENDS)?;
        // A name of the guest leads to no other folder.
        (!name.contains('/') && !name.starts_with('.')).then_some((name, &rest[..end]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_files_of_a_guest_are_saved() {
        let lines = [
            "ok",
            "closewait-vm: file begins a.recording",
            "AAEC",
            "/w==",
            ENDS,
            "closewait-vm: file begins ../b",
            "AAEC",
            ENDS,
            "closewait-vm: file begins cut",
            "AA",
        ];
        let lines = lines.map(str::to_owned);
        exec::with_scratch("returned", |dir| {
            let saved = save(&lines, dir)?;
            assert_eq!(saved, [dir.join("a.recording")]);
            assert_eq!(fs::read(&saved[0])?, [0, 1, 2, 255]);
            assert_eq!(fs::read_dir(dir)?.count(), 1);
            Ok(())
        })
        .unwrap();
    }
}

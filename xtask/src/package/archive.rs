//! Archives (`.tar.gz`) with the same bytes for the same files: neither times nor owners nor permissions of the builder are in them.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufReader, BufWriter, Write as _},
};

use flate2::{Compression, GzBuilder};
use tar::{EntryType, Header};

use crate::prelude::*;

/// Path in an archive, with the file that has the content and the permissions.
pub(super) type ArchivedFiles = BTreeMap<String, (PathBuf, u32)>;

/// Writes an archive. Files and folders are sorted, belong to user 0 without a name, and have the time `seconds` after 1970.
pub(super) fn write(path: &Path, files: &ArchivedFiles, seconds: u64) -> Result<()> {
    // Neither a name nor a time; the operating system is "unknown".
    let compressed =
        GzBuilder::new().operating_system(255).write(BufWriter::new(fs::File::create(path)?), Compression::best());
    let mut archive = tar::Builder::new(compressed);
    for folder in folders(files.keys()) {
        let mut header = header(EntryType::Directory, 0o755, 0, seconds);
        archive.append_data(&mut header, format!("{folder}/"), std::io::empty())?;
    }
    for (name, (source, mode)) in files {
        let file = fs::File::open(source)?;
        let mut header = header(EntryType::Regular, *mode, file.metadata()?.len(), seconds);
        archive.append_data(&mut header, name, BufReader::new(file))?;
    }
    archive.into_inner()?.finish()?.flush().with_context(|| format!("writing {} failed", path.display()))
}

/// Returns the header of an entry: of user 0 without a name.
pub(super) fn header(kind: EntryType, mode: u32, size: u64, seconds: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(seconds);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// All folders of these paths.
fn folders<'a>(paths: impl Iterator<Item = &'a String>) -> BTreeSet<String> {
    let above = |path: &'a String| Path::new(path).ancestors().skip(1);
    let folders = paths.flat_map(above).filter(|folder| !folder.as_os_str().is_empty());
    folders.map(|folder| folder.display().to_string()).collect()
}

#[cfg(test)]
mod tests {
    use std::{fs::Permissions, io::Read as _, os::unix::fs::PermissionsExt as _};

    use flate2::read::GzDecoder;

    use super::*;

    /// Writes two files in this order, with these permissions, and archives them.
    fn archived(dir: &Path, order: [&str; 2], mode: u32) -> Vec<u8> {
        let mut files = ArchivedFiles::new();
        for name in order {
            let source = dir.join(name);
            fs::write(&source, format!("content of {name}")).unwrap();
            fs::set_permissions(&source, Permissions::from_mode(mode)).unwrap();
            files.insert(format!("closewait-1.0/{name}/{name}"), (source, if name == "a" { 0o755 } else { 0o644 }));
        }
        let path = dir.join("archive.tar.gz");
        write(&path, &files, 1_795_818_107).unwrap();
        fs::read(path).unwrap()
    }

    #[test]
    fn neither_the_order_nor_the_builders_permissions_and_times_are_in_an_archive() {
        let (first, second) = exec::with_scratch("archive", |dir| {
            let first = archived(dir, ["a", "b"], 0o600);
            // Another time of the files.
            thread::sleep(Duration::from_millis(1100));
            Ok((first, archived(dir, ["b", "a"], 0o664)))
        })
        .unwrap();
        assert!(first == second);
        let mut bytes = Vec::new();
        GzDecoder::new(&first[..]).read_to_end(&mut bytes).unwrap();
        let mut archive = tar::Archive::new(&bytes[..]);
        let entries: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let header = entry.header();
                let owner = (header.uid().unwrap(), header.username().unwrap().map(str::to_owned));
                assert_eq!((owner, header.mtime().unwrap()), ((0, Some(String::new())), 1_795_818_107));
                (entry.path().unwrap().display().to_string(), header.mode().unwrap())
            })
            .collect();
        let expected = [
            ("closewait-1.0/", 0o755),
            ("closewait-1.0/a/", 0o755),
            ("closewait-1.0/b/", 0o755),
            ("closewait-1.0/a/a", 0o755),
            ("closewait-1.0/b/b", 0o644),
        ];
        assert_eq!(entries, expected.map(|(path, mode)| (path.to_owned(), mode)));
    }
}

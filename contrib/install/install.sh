#!/bin/sh
# Installs closewait from the files of a release: downloads them, compares checksums, shows what it will do, and asks.
#
#   sh install.sh                      # the latest release, into /usr/local (asks for sudo for that step only)
#   sh install.sh --prefix ~/.local    # without root
#   sh install.sh --dry-run            # shows what it would do
#   sh install.sh --help
#
# It changes nothing before its question is answered, starts no service, and removes what it downloaded.
set -eu
umask 022

repository=https://github.com/closewait/closewait
prefix=/usr/local
version=
from=
key=
assume_yes=
dry_run=

usage() {
    cat <<'END'
Usage: sh install.sh [OPTIONS]

Options:
  --version VERSION  Install this version, such as 0.2.0 [default: the latest release]
  --prefix DIR       Install into DIR/bin and DIR/share [default: /usr/local]
  --from URL         Download from this folder, with https:// or file:// [default: the release on GitHub]
  --key FILE         Public key of minisign: refuse files that are not signed with it
  --dry-run          Download and compare, show what would be done, and end
  --yes              Do not ask
  --help             Print this help

Exit codes: 0 installed, 1 failed or refused, 2 wrong usage. Docs: docs/install.md
END
}

# Prints what failed and what to do, and ends with exit code $1.
fail() {
    printf 'error: %s\n' "$2" >&2
    [ $# -lt 3 ] || printf 'hint: %s\n' "$3" >&2
    exit "$1"
}

while [ $# -gt 0 ]; do
    case "$1" in
    --yes) assume_yes=yes ;;
    --dry-run) dry_run=yes ;;
    -h | --help)
        usage
        exit 0
        ;;
    --version | --prefix | --from | --key)
        [ $# -ge 2 ] && [ -n "$2" ] || fail 2 "$1 has no value" "sh install.sh --help"
        case "$1" in
        --version) version=$2 ;;
        --prefix) prefix=$2 ;;
        --from) from=$2 ;;
        --key) key=$2 ;;
        esac
        shift
        ;;
    *) fail 2 "there is no option $1" "sh install.sh --help" ;;
    esac
    shift
done

case "$version" in
"" | [0-9]*.[0-9]*.[0-9]*) ;;
*) fail 2 "$version is no version" "write it as 0.2.0" ;;
esac
case "$version" in
*[!0-9A-Za-z.-]*) fail 2 "$version is no version" "write it as 0.2.0" ;;
esac
case "$prefix" in
/*) ;;
*) prefix=$(pwd)/$prefix ;;
esac
if [ -z "$from" ]; then
    from=$repository/releases/latest/download
    [ -z "$version" ] || from=$repository/releases/download/v$version
fi

[ "$(uname -s)" = Linux ] || fail 1 "closewait runs on Linux, and this is $(uname -s)"
machine=$(uname -m)
case "$machine" in
x86_64 | amd64) arch=x86_64 ;;
aarch64 | arm64) arch=aarch64 ;;
*) fail 1 "there are no binaries for $machine" "build it from source: docs/install.md" ;;
esac
for tool in tar sha256sum; do
    [ -n "$(command -v "$tool")" ] || fail 1 "$tool is not installed"
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

# Downloads the file $1 into the work folder.
download() {
    if [ -n "$(command -v curl)" ]; then
        case "$from" in
        # A redirection may not leave TLS.
        https://*) curl --fail --silent --show-error --location --proto =https --max-time 300 --output "$work/$1" "$from/$1" ;;
        *) curl --fail --silent --show-error --max-time 300 --output "$work/$1" "$from/$1" ;;
        esac
    elif [ -n "$(command -v wget)" ]; then
        wget --quiet --timeout=60 --output-document="$work/$1" "$from/$1"
    else
        fail 1 "neither curl nor wget is installed"
    fi || fail 1 "cannot download $from/$1" "is the version right, and does this host reach that address?"
}

printf 'Downloading from %s\n' "$from"
download SHA256SUMS
if [ -n "$key" ]; then
    [ -n "$(command -v minisign)" ] || fail 1 "minisign is not installed, which --key needs" "apt-get install minisign"
    download SHA256SUMS.minisig
    minisign -Vqm "$work/SHA256SUMS" -p "$key" || fail 1 "SHA256SUMS is not signed with the key $key" "do not use these files"
fi
# Of two lines that fit, the first counts; the version is of the name.
archive=$(sed -n "s/^[0-9a-f]\{64\}  \(closewait-[0-9A-Za-z.-]*-linux-$arch\.tar\.gz\)\$/\1/p" "$work/SHA256SUMS" | head -n 1)
[ -n "$archive" ] || fail 1 "SHA256SUMS names no archive for $arch" "is $from a folder of a release of closewait?"
folder=${archive%.tar.gz}
offered=${folder#closewait-}
offered=${offered%-linux-"$arch"}
[ -z "$version" ] || [ "$version" = "$offered" ] || fail 1 "$from has version $offered, and not $version"
download "$archive"
grep -F "  $archive" "$work/SHA256SUMS" | head -n 1 >"$work/wanted"
(cd "$work" && sha256sum --check wanted >/dev/null 2>&1) \
    || fail 1 "the checksum of $archive is wrong: it is not the file of the release" "do not use it; try again, and report it if it stays wrong"
tar -xzf "$work/$archive" -C "$work" || fail 1 "cannot unpack $archive"
[ -x "$work/$folder/bin/closewait" ] || fail 1 "$archive has no program in it"
runs=$("$work/$folder/bin/closewait" --version) || fail 1 "the program of $archive does not run here"

# The files of the archive that go below the prefix, by name.
files=$(cd "$work/$folder" && find bin share -type f | LC_ALL=C sort)

printf '\n%s for %s; the checksum is right' "$runs" "$arch"
if [ -n "$key" ]; then
    printf ', and signed with %s.\n' "$key"
else
    printf '. The signature was not verified (--key).\n'
fi
printf 'These files will be written, and nothing else is changed:\n'
printf '%s\n' "$files" | sed "s|^|  $prefix/|"
# The nearest folder that exists tells whether another user has to write.
place=$prefix
while [ ! -d "$place" ]; do place=$(dirname "$place"); done
as_root=
if [ ! -w "$place" ]; then
    [ -n "$(command -v sudo)" ] || fail 1 "this user may not write to $place" "run it as root, or with --prefix \"\$HOME/.local\""
    as_root=sudo
    printf 'This user may not write to %s: sudo installs them.\n' "$place"
fi
[ -z "$dry_run" ] || exit 0

if [ -z "$assume_yes" ]; then
    # Standard input can be the script itself.
    (: </dev/tty) 2>/dev/null || fail 1 "there is no terminal to ask at" "add --yes"
    printf 'Install? [y/N] ' >/dev/tty
    read -r answer </dev/tty
    case "$answer" in
    y | Y | yes) ;;
    *) fail 1 "nothing was installed" ;;
    esac
fi

printf '%s\n' "$files" | while read -r file; do
    mode=644
    [ ! -x "$work/$folder/$file" ] || mode=755
    # A new file replaces a running program, and a full disk leaves the old one.
    if ! $as_root install -D -m "$mode" "$work/$folder/$file" "$prefix/$file.new" ||
        ! $as_root mv -f "$prefix/$file.new" "$prefix/$file"; then
        $as_root rm -f "$prefix/$file.new"
        exit 1
    fi
done || fail 1 "cannot write all files to $prefix"

printf '\nInstalled. Next:\n'
case ":$PATH:" in
*":$prefix/bin:"*) program=closewait ;;
*) program=$prefix/bin/closewait ;;
esac
printf '  sudo %s doctor    # what works on this host\n  sudo %s           # which sockets are in CLOSE_WAIT, and why\n' "$program" "$program"
printf 'As a service: %s/share/closewait/closewait.service (docs/install.md)\n' "$prefix"

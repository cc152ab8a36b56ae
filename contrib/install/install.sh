#!/bin/sh
# Installs closewait from the files of a release: downloads them, compares checksums, shows what it will do, and asks.
#
#   sh install.sh                      # the latest release, into /usr/local (asks for sudo for that step only)
#   sh install.sh --prefix ~/.local    # without root
#   sh install.sh --dry-run            # shows what it would do
#   sh install.sh --help
#
# Before its question is answered it changes nothing and runs nothing that it has downloaded. It starts no service, and removes what
# it downloaded. The server may send anything: names are compared with a list of allowed characters before they are used or printed,
# and messages of other programs are printed without control characters.
#
# shellcheck disable=SC2015 # `A && B || fail`: fail ends the script.
set -eu
umask 022
# Options for tar and gzip that the user has set for other work.
unset TAR_OPTIONS GZIP
# No file of a release is larger than 100 MB, whatever a server sends. The unit is 512 bytes, in some shells 1,024.
(ulimit -f 200000) 2>/dev/null && ulimit -f 200000 || :

repository=https://github.com/closewait/closewait
prefix=/usr/local
version=
from=
key=
assume_yes=
dry_run=

usage() {
    cat <<END
Usage: sh install.sh [OPTIONS]

Options:
  --version VERSION  Install this version, such as 0.2.0 [default: the latest release]
  --prefix DIR       Install into DIR/bin and DIR/share [default: /usr/local]
  --from URL         Download from this folder, with https:// or file:/// [default: the release on GitHub]
  --key FILE         Public key of minisign: refuse files that are not signed with it
  --dry-run          Download and compare, show what would be done, and end
  --yes              Do not ask
  --help             Print this help

Exit codes: 0 installed, 1 failed or refused, 2 wrong usage. Docs: $repository/blob/main/docs/install.md
END
}

# Prints what failed and what to do, and ends with exit code $1.
fail() {
    printf 'error: %s\n' "$2" >&2
    [ $# -lt 3 ] || printf 'hint: %s\n' "$3" >&2
    exit "$1"
}

# Copies text of other programs without what a terminal would obey: all bytes but those of ASCII that have a shape.
printable() {
    LC_ALL=C tr -c '\040-\176\n' '?'
}

# The same for one line.
printable_line() {
    printf '%s' "$1" | LC_ALL=C tr -c '\040-\176' '?'
}

# Whether $1 has no control characters: none of ASCII (00 to 1f, 7f), and none of C1 in UTF-8 (c2 80 to c2 9f).
is_plain() {
    case " $(printf '%s' "$1" | od -An -v -tx1 | tr '\n' ' ' | tr -s ' ')" in
    *' 0'? | *' 0'?' '* | *' 1'?' '* | *' 7f '* | *' c2 8'* | *' c2 9'*) return 1 ;;
    esac
}

# Prints $1 as a shell reads it.
quoted() {
    case "$1" in
    *[!0-9A-Za-z._/+-]*) printf "'%s'" "$(printf '%s' "$1" | sed "s/'/'\\\\''/g")" ;;
    *) printf '%s' "$1" ;;
    esac
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
        is_plain "$2" || fail 2 "the value of $1 has control characters: $(printable_line "$2")"
        case "$1" in
        --version) version=$2 ;;
        --prefix) prefix=$2 ;;
        --from) from=${2%/} ;;
        --key) key=$2 ;;
        esac
        shift
        ;;
    *) fail 2 "there is no option $(printable_line "$1")" "sh install.sh --help" ;;
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
*) prefix=$PWD/$prefix ;;
esac
prefix=${prefix%/}
is_plain "$prefix" || fail 2 "the path of this folder has control characters" "name the prefix by a path that begins with /"
if [ -z "$from" ]; then
    from=$repository/releases/latest/download
    [ -z "$version" ] || from=$repository/releases/download/v$version
fi
case "$from" in
https://?* | file:///*) ;;
http://*) fail 2 "http:// is not protected: anybody on the way could change the files" "use https://, or file:/// with a folder" ;;
*) fail 2 "--from takes https:// or file:///, and not $from" "sh install.sh --help" ;;
esac

[ "$(uname -s)" = Linux ] || fail 1 "closewait runs on Linux, and this is $(uname -s)"
machine=$(uname -m)
case "$machine" in
x86_64 | amd64) arch=x86_64 ;;
aarch64 | arm64) arch=aarch64 ;;
*) fail 1 "there are no binaries for $machine" "build it from source: $repository/blob/main/docs/install.md" ;;
esac
for tool in od sha256sum tar; do
    [ -n "$(command -v "$tool")" ] || fail 1 "$tool is not installed"
done
if [ -n "$key" ]; then
    [ -f "$key" ] && [ -r "$key" ] \
        || fail 2 "cannot read the key $key: it is no file, or not yours to read" \
            "it is contrib/install/closewait.pub in the repository: $repository"
    [ -n "$(command -v minisign)" ] || fail 1 "minisign is not installed, which --key needs" "apt-get install minisign"
fi

# The nearest folder that exists tells whether another user has to write.
place=$prefix
while [ -n "$place" ] && [ ! -d "$place" ]; do
    [ ! -e "$place" ] && [ ! -L "$place" ] || fail 1 "cannot install into $prefix: $place is no folder" "choose another one with --prefix"
    place=$(dirname "$place")
done
place=${place:-/}
as_root=
if [ ! -w "$place" ]; then
    [ "$(id -u)" -ne 0 ] \
        || fail 1 "root cannot write to $place: the file system is read-only, or refuses root" "choose another folder with --prefix"
    [ -n "$(command -v sudo)" ] || fail 1 "this user may not write to $place" "run it as root, or with --prefix \"\$HOME/.local\""
    as_root=sudo
fi

# Whoever can change a folder on the way can change what is installed: its owner, and every user if all may write to it.
owner=0
[ -n "$as_root" ] || owner=$(id -u)

# Prints the first folder on the way to the folder $1 that others can change. Members of its group are trusted, as Debian trusts `staff`.
changeable() {
    for way in "$1" "$(cd -P "$1" && pwd -P)"; do
        while :; do
            if [ -n "$(find "$way" -prune -type l ! -user 0 ! -user "$owner")" ] \
                || [ -n "$(find "$way/." -prune \( ! -user 0 ! -user "$owner" -o -perm -0002 ! -perm -1000 \))" ]; then
                printf '%s' "$way"
                return
            fi
            case "$way" in
            / | //) break ;;
            esac
            way=$(dirname "$way")
        done
    done
}

# Refuses a folder that others can change.
trusts() {
    changed=$(changeable "$1") || fail 1 "cannot find out who can change $1"
    [ -z "$changed" ] || fail 1 "other users can change $changed, and with it what is installed" "choose another folder with --prefix"
}
trusts "$place"

work=$(mktemp -d) || fail 1 "cannot make a folder for the download" "name one with TMPDIR=FOLDER sh install.sh"
case "$work" in
/*) ;;
*) work=$PWD/$work ;;
esac
trap 'trap "" HUP INT QUIT PIPE TERM; rm -rf "$work"' EXIT
trap 'exit 1' HUP INT QUIT PIPE TERM
is_plain "$work" || fail 1 "the path of the folder for the download has control characters" "name another one with TMPDIR=FOLDER sh install.sh"
# The program runs there once, after the question: better to know before the download whether that works.
printf '#!/bin/sh\n' >"$work/try" && chmod 755 "$work/try" \
    || fail 1 "cannot write to $work" "name another folder with TMPDIR=FOLDER sh install.sh"
"$work/try" 2>/dev/null || fail 1 "cannot run programs in $work: its file system is probably mounted with noexec" \
    "name a folder elsewhere: TMPDIR=\"\$HOME\" sh install.sh"

# Runs a program, whose output goes to the file `out`. If it fails, prints its messages without control characters.
quietly() {
    LC_ALL=C "$@" >"$work/out" 2>"$work/log" || {
        printable <"$work/log" >&2
        return 1
    }
}

# Whether grep selects no line with these arguments. If grep itself fails, this fails, too.
selects_none() {
    LC_ALL=C grep -aq "$@" && return 1
    [ $? -eq 1 ]
}

# Downloads $from/$1 with GNU Wget 1 into the file $2. wget itself would follow a redirection from https to http.
with_wget() {
    url=$from/$1
    for _ in 1 2 3 4 5 6; do
        LC_ALL=C wget --quiet --server-response --timeout=60 --tries=2 --max-redirect=0 --output-document="$2" -- "$url" \
            2>"$work/log" && return 0
        # Other answers than redirections can have an address, too.
        case "$(sed -n 's/^ *HTTP\/[0-9.]* \([0-9]*\).*/\1/p' "$work/log" | tail -n 1)" in
        3*) next=$(sed -n 's/^ *[Ll]ocation: *\([^ ]*\).*/\1/p' "$work/log" | tail -n 1) ;;
        *) next= ;;
        esac
        case "$next" in
        //*) url=https:$next ;;
        /*) url=$(printf '%s' "$url" | sed 's|^\(https://[^/]*\).*|\1|')$next ;;
        https://?*) url=$next ;;
        "")
            printable <"$work/log" >&2
            return 1
            ;;
        *)
            printf 'it is redirected to an address without https://\n' >&2
            return 1
            ;;
        esac
    done
    printf 'it is redirected too often\n' >&2
    return 1
}

# Downloads the file $1 into the work folder. If that fails, gives the hint $2.
download() {
    case "$from" in
    file://*) quietly cp -- "${from#file://}/$1" "$work/$1" ;;
    *)
        if [ -n "$(command -v curl)" ]; then
            # A redirection may not leave TLS.
            quietly curl --fail --silent --show-error --location --globoff --proto =https --max-time 300 \
                --output "$work/$1" "$from/$1"
        elif [ -z "$(command -v wget)" ]; then
            fail 1 "neither curl nor wget is installed" "download the files yourself, and use --from file:///FOLDER"
        else
            case "$(wget --version 2>&1)" in
            'GNU Wget 1.'*) with_wget "$1" "$work/$1" ;;
            *)
                fail 1 "curl is not installed, and this wget cannot be kept to https://" \
                    "install curl, or download the files yourself and use --from file:///FOLDER"
                ;;
            esac
        fi
        ;;
    esac || fail 1 "cannot download $from/$1" "$2"
}

printf 'Downloading from %s\n' "$from"
download SHA256SUMS "is the version right, and does this host reach that address?"
# A proxy may answer with a page of its own.
[ -s "$work/SHA256SUMS" ] && selects_none -v '^[0-9a-f]\{64\} [ *][0-9A-Za-z._~+-]\{1,255\}$' "$work/SHA256SUMS" \
    || fail 1 "$from/SHA256SUMS is not a list of checksums" \
        "is it a folder of a release, or does a proxy or a login page answer in its place?"
if [ -n "$key" ]; then
    download SHA256SUMS.minisig \
        "without a signature, there is nothing to compare with the key. Only releases have one, and files of cargo xtask package none"
    quietly minisign -Vqm "$work/SHA256SUMS" -p "$key" || fail 1 "SHA256SUMS is not signed with the key $key" "do not use these files"
fi
# Of two lines that fit, the first counts; the version is of the name.
archive=$(sed -n "s/^[0-9a-f]\{64\}  \(closewait-[0-9A-Za-z.-]*-linux-$arch\.tar\.gz\)\$/\1/p" "$work/SHA256SUMS" | head -n 1)
[ -n "$archive" ] || fail 1 "SHA256SUMS names no archive for $arch" "is $from a folder of a release of closewait?"
folder=${archive%.tar.gz}
offered=${folder#closewait-}
offered=${offered%-linux-"$arch"}
[ -z "$version" ] || [ "$version" = "$offered" ] || fail 1 "$from has version $offered, and not $version"
download "$archive" "SHA256SUMS names it; is the release complete?"
sed -n "/^[0-9a-f]\{64\}  $archive\$/p" "$work/SHA256SUMS" | head -n 1 >"$work/wanted"
(cd "$work" && sha256sum -c wanted >/dev/null 2>&1) \
    || fail 1 "the checksum of $archive is wrong: it is not the file of the release" "do not use it; try again, and report it if it stays wrong"

# Regular files and folders below one folder, with harmless names: before they are unpacked, and after it for what a list does not show.
odd="do not use it, and report it"
quietly tar -tzf "$work/$archive" || fail 1 "cannot read $archive"
selects_none -v "^$folder\(/[0-9A-Za-z._/-]*\)\{0,1\}\$" "$work/out" && selects_none -E '(^|/)\.\.(/|$)' "$work/out" \
    || fail 1 "$archive has names that no release has" "$odd"
# BusyBox shows a hard link as a file with an arrow.
quietly tar -tvzf "$work/$archive" || fail 1 "cannot read $archive"
selects_none -v '^[d-]' "$work/out" && selects_none -e ' -> ' -e ' link to ' "$work/out" \
    || fail 1 "$archive has links or devices, which no release has" "$odd"
mkdir "$work/tree"
quietly tar -xzf "$work/$archive" -C "$work/tree" || fail 1 "cannot unpack $archive" "is there room in $work? TMPDIR names another folder"
tree=$work/tree/$folder
quietly find "$work/tree" -name '*[!0-9A-Za-z._-]*' -o ! -type f ! -type d -o -type f -links +1 \
    || fail 1 "cannot list the files of $archive"
[ ! -s "$work/out" ] || fail 1 "$archive has names or links that no release has" "$odd"
[ -f "$tree/bin/closewait" ] && [ -x "$tree/bin/closewait" ] && [ -d "$tree/share" ] || fail 1 "$archive has no program in it"

# The files of the archive that go below the prefix, by name. Names have no spaces and no patterns.
files=$(cd "$tree" && find bin share -type f | LC_ALL=C sort)
for below in $(cd "$tree" && find bin share -type d); do
    [ ! -d "$prefix/$below" ] || trusts "$prefix/$below"
done

printf '\nclosewait %s for %s; the checksum is right' "$offered" "$arch"
if [ -n "$key" ]; then
    printf ', and signed with %s.\n' "$key"
else
    printf '. The signature was not verified (--key).\n'
fi
printf 'These files will be written, and nothing else is changed:\n'
for file in $files; do
    printf '  %s/%s\n' "$prefix" "$file"
done
[ -z "$as_root" ] || printf 'This user may not write to %s: sudo installs them.\n' "$place"
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

patience=
[ -z "$(command -v timeout)" ] || patience='timeout 30'
# shellcheck disable=SC2086 # Words.
quietly $patience "$tree/bin/closewait" --version || fail 1 "the program of $archive does not run here; nothing was installed"
[ "$(cat "$work/out")" = "closewait $offered" ] || fail 1 "the program of $archive is not closewait $offered; nothing was installed" "$odd"

# One process, so that sudo asks once. All new files are there before the first one replaces an old one: a full disk leaves the old
# version, and a running program is replaced, not overwritten. Two runs at once have different names for them.
# shellcheck disable=SC2016 # Expanded by the process.
write='
umask 022
prefix=$1 tree=$2 new=$3
shift 3
trap '\''trap "" HUP INT QUIT PIPE TERM; for file; do rm -f "$prefix/$file.$new"; done'\'' EXIT
trap "exit 1" HUP INT QUIT PIPE TERM
for file; do
    mode=644
    [ ! -x "$tree/$file" ] || mode=755
    if [ -d "$prefix/$file" ]; then
        echo "$prefix/$file is a folder" >&2
        exit 1
    fi
    # Not `install`, which BusyBox of Debian has not.
    mkdir -p "$prefix/${file%/*}" && cp "$tree/$file" "$prefix/$file.$new" && chmod "$mode" "$prefix/$file.$new" || exit 1
done
# Between two renames a signal would leave a mix of two versions.
trap "" HUP INT QUIT PIPE TERM
for file; do
    mv -f "$prefix/$file.$new" "$prefix/$file" || exit 1
done
'
# shellcheck disable=SC2086 # The names are words.
set -- $files
# sudo asks at the terminal, not at standard error.
$as_root env LC_ALL=C sh -c "$write" sh "$prefix" "$tree" "new-${work##*.}" "$@" 2>"$work/log" || {
    printable <"$work/log" >&2
    fail 1 "cannot write all files to $prefix" "is there room, and may they be written?"
}

bin=$prefix/bin
program=$bin/closewait
sudo='sudo '
if [ "$(id -u)" -eq 0 ]; then
    # Below sudo, PATH is what sudo will search again.
    case ":$PATH:" in
    *":$bin:"*) program=closewait ;;
    esac
    [ -n "${SUDO_USER:-}" ] || sudo=
else
    # sudo searches folders of its own (secure_path), which have these two everywhere, and /usr/local/bin on some distributions.
    case "$bin" in
    /usr/bin | /bin) program=closewait ;;
    esac
fi
program=$(quoted "$program")
printf '\nInstalled closewait %s. See what works on this host, and which sockets are in CLOSE_WAIT:\n' "$offered"
printf '  %s%s doctor\n' "$sudo" "$program"
printf '  %s%s\n' "$sudo" "$program"
printf 'As a service: %s/share/closewait/closewait.service\n' "$prefix"
printf '  %s/blob/v%s/docs/install.md#without-a-package\n' "$repository" "$offered"

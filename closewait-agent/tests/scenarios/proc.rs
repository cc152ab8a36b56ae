//! Data of /proc, to compare the agent with.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::fs::MetadataExt as _,
};

use serde_json::Value;

use crate::net::{Namespace, canonical};

const LISTEN: &str = "0A";
const CLOSE_WAIT: &str = "08";

/// Both endpoints of a socket, the local one first.
pub(crate) type Ends = (SocketAddr, SocketAddr);

/// Returns all sockets in CLOSE_WAIT.
pub(crate) fn close_wait(ns: &Namespace) -> BTreeSet<Ends> {
    in_state(ns, CLOSE_WAIT).collect()
}

/// Whether a program listens at this port.
pub(crate) fn listens(ns: &Namespace, port: u16) -> bool {
    in_state(ns, LISTEN).any(|(local, _remote)| local.port() == port)
}

/// Owners: process and number of descriptors.
pub(crate) type Holders = BTreeSet<(u64, u64)>;

/// Returns every owner of every socket, by the socket's inode.
pub(crate) fn holders() -> BTreeMap<u64, Holders> {
    let mut found: BTreeMap<u64, Holders> = BTreeMap::new();
    for pid in pids() {
        // A process that ends has none any more.
        let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        for descriptor in descriptors.flatten() {
            let Ok(target) = fs::read_link(descriptor.path()) else { continue };
            let inode = target.to_str().and_then(|link| link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
            let number = descriptor.file_name().to_str().and_then(|name| name.parse().ok());
            if let (Some(inode), Some(number)) = (inode, number) {
                found.entry(inode).or_default().insert((u64::from(pid), number));
            }
        }
    }
    found
}

/// Returns the processes in the namespace.
pub(crate) fn inhabitants(ns: &Namespace) -> Vec<u32> {
    let lives_there =
        |pid: &u32| fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|metadata| metadata.ino() == ns.inode);
    pids().into_iter().filter(lives_there).collect()
}

/// Parent of a process; `None` if the process has ended.
pub(crate) fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses, and may contain any character.
    let (_name, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Holders as `list` prints them.
pub(crate) fn owners(object: &Value) -> Holders {
    let owners = object["owners"].as_array().map(Vec::as_slice).unwrap_or_default();
    let number = |owner: &Value, name: &str| owner[name].as_u64().unwrap_or_else(|| panic!("no {name} in {object}"));
    owners.iter().map(|owner| (number(owner, "pid"), number(owner, "fd"))).collect()
}

fn pids() -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn in_state(ns: &Namespace, state: &'static str) -> impl Iterator<Item = Ends> {
    // The tables are those of the thread that opens them.
    let read = |name: &str| fs::read_to_string(format!("/proc/thread-self/net/{name}")).expect("a table of sockets");
    let tables = ns.run(|| ["tcp", "tcp6"].map(read));
    let parse = move |line: &str| {
        let mut columns = line.split_ascii_whitespace().skip(1);
        let (local, remote) = (end(columns.next()?)?, end(columns.next()?)?);
        (columns.next()? == state).then_some((local, remote))
    };
    tables.into_iter().flat_map(move |table| table.lines().filter_map(parse).collect::<Vec<_>>())
}

/// Parses `0100007F:1F90`: words of 32 bits in the machine's order, and the port.
fn end(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let word = |at: usize| u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(words.concat()).ok()?))
        }
        _other => return None,
    };
    Some(canonical(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?)))
}

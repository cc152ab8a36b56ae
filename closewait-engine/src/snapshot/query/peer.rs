//! Address, network, or endpoint of peers, in filters.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::model::Endpoint;

/// Address, network, or endpoint of peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    pub(super) address: IpAddr,
    prefix: u8,
    pub(super) port: Option<u16>,
}

impl Peer {
    /// Returns the lowest and the highest address.
    pub(super) fn range(self) -> (u128, u128) {
        let address = match self.address {
            IpAddr::V4(address) => u128::from(u32::from(address)),
            IpAddr::V6(address) => u128::from(address),
        };
        let free = u32::from(bits(self.address).saturating_sub(self.prefix));
        let mask = 1_u128.checked_shl(free).map_or(u128::MAX, |size| size - 1);
        (address & !mask, address | mask)
    }

    pub(super) fn matches(self, remote: Endpoint) -> bool {
        self.port.is_none_or(|port| port == remote.port)
            && match (self.address, remote.address) {
                (IpAddr::V4(wanted), IpAddr::V4(is)) => {
                    let differ = u32::from(wanted) ^ u32::from(is);
                    self.prefix == 0 || differ >> 32_u8.saturating_sub(self.prefix) == 0
                }
                (IpAddr::V6(wanted), IpAddr::V6(is)) => {
                    let differ = u128::from(wanted) ^ u128::from(is);
                    self.prefix == 0 || differ >> 128_u8.saturating_sub(self.prefix) == 0
                }
                (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
            }
    }
}

/// Returns the number of bits of an address.
fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = |why: &str| format!("{why}; write it like 10.0.0.7, 10.0.0.7:8080, [2001:db8::7]:8080 or 10.0.0.0/8");
        let address = |text: &str| {
            let text = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
            text.parse::<IpAddr>().map_err(|_not_one| bad("not an IP address"))
        };
        if let Some((network, prefix)) = text.split_once('/') {
            let network = address(network)?;
            let prefix = prefix.parse().ok().filter(|prefix| *prefix <= bits(network));
            let prefix = prefix.ok_or_else(|| bad(&format!("the prefix is a number from 0 to {}", bits(network))))?;
            return Ok(Self { address: network, prefix, port: None });
        }
        let (address, port) = match text.rsplit_once(':') {
            // An IPv6 address has a port only after a bracket.
            Some((before, port)) if !before.contains(':') || before.ends_with(']') => {
                let port = port.parse().map_err(|_not_one| bad("the port is a number from 0 to 65535"))?;
                (address(before)?, Some(port))
            }
            Some(_) | None => (address(text)?, None),
        };
        // Addresses of sockets are canonical, too.
        let address = address.to_canonical();
        Ok(Self { address, prefix: bits(address), port })
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => Endpoint { address: self.address, port }.fmt(f),
            None if self.prefix == bits(self.address) => self.address.fmt(f),
            None => write!(f, "{}/{}", self.address, self.prefix),
        }
    }
}

impl Serialize for Peer {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Peer {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

//! Free ports of the loopback interface.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use anyhow::Context as _;

/// A free TCP port, for a listener that is opened later. It is taken from below the range of
/// ephemeral ports. The UDP socket with the same number reserves it against another demo.
pub(super) struct Port {
    number: u16,
    _claim: UdpSocket,
}

impl Port {
    /// The preferred port if it is free, else any.
    pub(super) fn reserve(preferred: u16) -> anyhow::Result<Self> {
        std::iter::once(preferred)
            .chain((0..1_000).map(|_| rand::random_range(10_000..32_000)))
            .find_map(|number| {
                let claim = UdpSocket::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
                TcpListener::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
                Some(Self {
                    number,
                    _claim: claim,
                })
            })
            .context("no port of the loopback interface is free")
    }

    pub(super) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.number).into()
    }
}

//! Loopback addresses of a cluster's own, so that programs with fixed ports run side by side.

use std::io;
use std::net::Ipv4Addr;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};

/// Blocks are 127.A.B.0/24 with A from here on: below are addresses that systems use themselves,
/// such as 127.0.0.53 and 127.0.1.1.
const FIRST: u8 = 16;

/// Random blocks to try before giving up. Of 61,440 blocks, so many are never taken by chance.
const TRIES: usize = 1000;

/// 127.A.B.1 to 127.A.B.254, claimed on this machine as long as this lives.
#[derive(Debug)]
pub struct Block {
    base: [u8; 2],
    _claim: UnixListener,
}

impl Block {
    /// Claims a block that nobody has; `random` says where to look.
    ///
    /// # Errors
    /// What the operating system says. That a thousand random blocks are all claimed is
    /// [`io::ErrorKind::AddrInUse`].
    pub fn claim(mut random: impl FnMut() -> [u8; 2]) -> io::Result<Self> {
        for _ in 0..TRIES {
            let [a, b] = random();
            match Self::claim_at([a.clamp(FIRST, 254), b]) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                claimed => return claimed,
            }
        }
        Err(io::ErrorKind::AddrInUse.into())
    }

    /// Claims 127.`base`.0/24, as a cluster that is kept does when it runs again.
    ///
    /// # Errors
    /// [`io::ErrorKind::AddrInUse`] if somebody has it.
    pub fn claim_at(base: [u8; 2]) -> io::Result<Self> {
        let [a, b] = base;
        Ok(Self { base, _claim: claim(&format!("xlreg/127.{a}.{b}.0/24"))? })
    }

    /// The second and third byte of its addresses.
    #[must_use]
    pub fn base(&self) -> [u8; 2] {
        self.base
    }

    /// The address of the member at `rank`, below 254.
    #[must_use]
    pub fn address(&self, rank: u8) -> Ipv4Addr {
        let [a, b] = self.base;
        Ipv4Addr::new(127, a, b, rank.saturating_add(1))
    }
}

/// Has a name for this process alone: a socket in the abstract namespace, with one owner a machine, or
/// a network namespace, whose addresses are its own just so; and gone with its process, however that
/// ends.
pub(crate) fn claim(name: &str) -> io::Result<UnixListener> {
    UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_has_one_owner_at_a_time() {
        // By chance another test process might have it just now; so take whichever is free.
        let mut last = 0u8;
        let block = Block::claim(|| {
            last = last.wrapping_add(1);
            [200, last]
        });
        let block = block.unwrap();
        assert_eq!(Block::claim_at(block.base()).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let base = block.base();
        assert_eq!(block.address(2).octets(), [127, base[0], base[1], 3]);
        drop(block);
        Block::claim_at(base).unwrap();
    }

    #[test]
    fn that_all_are_taken_is_an_error() {
        let _mine = Block::claim_at([255, 255]).unwrap();
        let _same = Block::claim_at([254, 255]).unwrap();
        let error = Block::claim(|| [255, 255]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}

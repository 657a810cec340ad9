//! What a member's program sees of the cluster when members talk through tunnels: where it shall listen
//! itself, and behind which door it finds each peer, all of it on loopback.
//!
//! What is registered, and stands in the roster that the registry hands out, is where the tunnels
//! listen. The second endpoint of a member, if it has one, is its program's own in both.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use xlreg::{Name, Roster};
use xlreg_core::{Endpoint, Member};
use xlreg_launch::loopback::Block;
use xlreg_launch::port::Port;
use xlreg_launch::{Places, descriptors};

use super::Address;
use super::form::take_port;
use super::plan::Plan;
use crate::exit::{Code, Ending};

/// Descriptors that each port takes: its socket, and its claim among runs.
const DESCRIPTORS_PER_PORT: u64 = 2;

/// Descriptors for each member besides: the pipes of its program and its tunnel, and its endpoints.
const DESCRIPTORS_PER_MEMBER: u64 = 12;

/// And for the run: the registry and those who join, the control socket, the runtime.
const OTHER_DESCRIPTORS: u64 = 512;

/// The ports of a member that only its own program and its tunnel know.
#[derive(Debug)]
pub(crate) struct Inside {
    /// Where its program listens, and its tunnel brings what peers send.
    pub(crate) program: Port,
    /// Where its tunnel listens for the program, by the peer that this leads to.
    pub(crate) doors: Vec<(Name, Port)>,
}

/// The same in the description of a kept cluster. The doors are in the order of their peers' names.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeptInside {
    pub(crate) program: SocketAddr,
    pub(crate) doors: Vec<SocketAddr>,
}

/// Takes the ports for all members, those of before if the cluster was kept.
pub(super) fn take(
    plan: &Plan,
    block: Option<&Block>,
    names: &[Name],
) -> anyhow::Result<Vec<Inside>> {
    allow_descriptors(u64::from(plan.size))?;
    let before = plan.keep.as_ref().and_then(|keep| keep.before.as_ref());
    let all = names.iter().enumerate().map(|(rank, name)| {
        let kept = before.and_then(|kept| kept.tunnels.get(rank));
        let fresh = SocketAddr::new(inner_host(plan, block, rank)?, 0);
        let take = |kept: Option<&SocketAddr>| match kept {
            Some(address) => take_port(*address, true),
            None => take_port(fresh, false),
        };
        let program = take(kept.map(|kept| &kept.program))?;
        let peers = names.iter().filter(|peer| *peer != name).enumerate();
        let doors = peers.map(|(nth, peer)| {
            let kept = kept.and_then(|kept| kept.doors.get(nth));
            Ok((peer.clone(), take(kept)?))
        });
        Ok(Inside { program, doors: doors.collect::<anyhow::Result<_>>()? })
    });
    all.collect()
}

/// The loopback address where a member's program and its tunnel meet: its own, if it has one.
fn inner_host(plan: &Plan, block: Option<&Block>, rank: usize) -> anyhow::Result<IpAddr> {
    Ok(match (plan.address, block) {
        (Address::Own, Some(block)) => IpAddr::V4(block.address(u8::try_from(rank)?)),
        (Address::Shared(host), _) if host.is_loopback() => host,
        (Address::Shared(IpAddr::V6(_)), _) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        _ => IpAddr::V4(Ipv4Addr::LOCALHOST),
    })
}

/// All doors of all members are held here, some thousands for the largest cluster.
fn allow_descriptors(size: u64) -> anyhow::Result<()> {
    let needed =
        size * size * DESCRIPTORS_PER_PORT + size * DESCRIPTORS_PER_MEMBER + OTHER_DESCRIPTORS;
    match descriptors::allow(needed) {
        Some(granted) if granted < needed => {
            let message = format!(
                "--tunnel with {size} members holds a port for each pair of them, which takes {needed} \
                 open files, and {granted} are allowed: raise the limit (ulimit -Hn, as root), or \
                 start fewer members"
            );
            Err(Ending::new(Code::Failed, message).into())
        }
        _ => Ok(()),
    }
}

impl Inside {
    pub(super) fn kept(&self) -> KeptInside {
        let doors = self.doors.iter().map(|(_, door)| door.address());
        KeptInside { program: self.program.address(), doors: doors.collect() }
    }
}

/// What a member has whose program talks through a tunnel.
#[derive(Debug)]
pub(crate) struct Tunnelled {
    /// Where its program listens.
    pub(super) program: Endpoint,
    /// Where its program finds each peer.
    doors: Vec<(Name, Endpoint)>,
    /// Holds the port where peers' tunnels come to, which is what the roster tells, and those of the
    /// doors; until its tunnel has them.
    ports: Option<(Port, Vec<(Name, Port)>)>,
    view: Option<Places>,
}

impl Tunnelled {
    /// Takes the `first` port of a member for its tunnel, and leaves another in its place.
    pub(super) fn new(first: &mut Port, inside: Inside) -> Self {
        let Inside { program, doors } = inside;
        let endpoint = program.endpoint();
        let outward = std::mem::replace(first, program);
        let ends = doors.iter().map(|(peer, door)| (peer.clone(), door.endpoint())).collect();
        Self { program: endpoint, doors: ends, ports: Some((outward, doors)), view: None }
    }

    /// The port where peers' tunnels come to and those of the doors, for whoever holds them from now on.
    pub(super) fn take_ports(&mut self) -> anyhow::Result<(Port, Vec<(Name, Port)>)> {
        self.ports.take().context("a tunnel's ports are taken once; this is a bug")
    }

    /// Everybody's places as the program is told them, once that is known.
    pub(super) fn view(&self) -> Option<&Places> {
        self.view.as_ref()
    }

    /// Notes everybody's places as `me` sees them, and returns such a roster. Nobody has signed the
    /// entries in it.
    pub(super) fn see(
        &mut self,
        me: &Name,
        all: &Places,
        roster: &Roster,
    ) -> anyhow::Result<Roster> {
        let (mut places, mut seen) = (all.clone(), roster.clone());
        for (place, member) in places.members.iter_mut().zip(&mut seen.members) {
            let here = self.endpoint(me, &place.name);
            let here = here.context("a member without a door; this is a bug")?;
            if let Some(first) = place.endpoints.first_mut() {
                *first = here;
            }
            let endpoints = place.endpoints.clone();
            *member = Arc::new(Member { endpoints, entry_signature: None, ..(**member).clone() });
        }
        self.view = Some(places);
        Ok(seen)
    }

    /// Where the member of this name is reached from here, if `me` is the one here.
    fn endpoint(&self, me: &Name, name: &Name) -> Option<Endpoint> {
        if name == me {
            return Some(self.program.clone());
        }
        self.doors.iter().find(|(peer, _)| peer == name).map(|(_, door)| door.clone())
    }
}

//! Everything up to the barrier: keys, directories, ports, a registry, and members that have joined.

use std::cell::OnceCell;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use xlreg::portable::{self, RosterCa};
use xlreg::{
    ClusterKey, Credentials, Durability, Error, Identity, Name, Portable, PrivateKey, Reason,
    Registry, Roster, Seat, Wire,
};
use xlreg_core::Refusal;
use xlreg_core::limits::Limits;
use xlreg_launch::loopback::Block;
use xlreg_launch::port::Port;
use xlreg_launch::{Place, Places, TlsFiles, ready};
use xlreg_node::files::{self, Mode};
use xlreg_node::pool::refill_target;
use xlreg_node::{KeyPool, MakeError, make_keys};
use xlreg_proto::keys::random;
use xlreg_server::{Home, LocalServer};
use xlreg_store::LocalEngine;

use super::guest::Guest;
use super::plan::{Kept, Plan};
use super::view::{Inside, Tunnelled};
use super::{Address, interrupted, view};
use crate::exit::{Code, Ending};
use crate::progress::Bar;
use crate::signed;

/// How long members' certificates are good: longer than a run should last, as nobody makes them anew
/// while it does.
const TLS_LIFE: Duration = Duration::from_secs(366 * 24 * 3600);

/// The registry's directory, below the run's or the kept cluster's.
const REGISTRY_DIR: &str = "registry";

/// A member's roster as its program sees it, or in a directory for its tunnel, as it is.
const ROSTER_FILE: &str = "roster.json";
const TUNNEL_DIR: &str = "tunnel";

/// A cluster whose programs can be started.
pub(crate) struct Formed {
    pub(crate) members: Vec<Member>,
    /// All members, once they have joined; none if their programs do that by themselves.
    pub(crate) places: Option<Places>,
    pub(crate) cluster_id: String,
    /// How long making keys took.
    pub(crate) keys: Duration,
    /// A pool to refill, and to how many keys.
    pub(crate) refill: Option<(KeyPool, usize)>,
    /// Held as long as the cluster runs.
    pub(crate) _addresses: Option<Block>,
    /// A registry that programs join at by themselves.
    pub(crate) gate: Option<Gate>,
    /// Held as long as the cluster is to stay at somebody else's registry.
    pub(crate) _stay: Option<AbortOnDropHandle<()>>,
}

/// A member before its program starts.
pub(crate) struct Member {
    pub(crate) name: Name,
    pub(crate) dir: PathBuf,
    pub(crate) roster_file: PathBuf,
    /// Hold its ports.
    pub(crate) ports: Vec<Port>,
    /// How to ask its program over TLS whether it is ready.
    pub(crate) tls: Option<ready::Tls>,
    /// What there is of its tunnel, if there is one.
    pub(crate) tunnel: Option<Tunnelled>,
}

/// Where programs join by themselves, and as whom to look on.
pub(crate) struct Gate {
    pub(crate) credentials_file: PathBuf,
    pub(crate) registry: Registry,
    pub(crate) onlooker: Identity,
    /// It lives as long as this, if it is ours.
    pub(crate) _server: Option<LocalServer>,
}

/// Identities of all members, and of a registry of their own.
struct Cast {
    members: Vec<Identity>,
    registry: Option<Identity>,
}

/// When this returns, every member holds the whole roster. Who is a `guest` is known before anything
/// is registered.
pub(super) async fn form(
    plan: &Plan,
    pool: Option<KeyPool>,
    stop: &CancellationToken,
    guest: &OnceCell<Guest>,
) -> anyhow::Result<Formed> {
    let home = plan.home().context("a worker without its run's directory")?;
    let names = plan.names()?;
    let dirs: Vec<_> = names.iter().map(|name| home.join(name.as_str())).collect();
    let (addresses, ports) = ports(plan)?;
    let insides = match plan.tunnel {
        true => view::take(plan, addresses.as_ref(), &names)?,
        false => Vec::new(),
    };
    if let Some(keep) = &plan.keep {
        keep.write(&kept(plan, addresses.as_ref(), &ports, &insides))?;
    }
    // Read before keys are made, which takes longer than finding out that it isn't one.
    let elsewhere = plan.registry.as_ref().map(Registry::open).transpose()?;
    let refill = pool.as_ref().map(|pool| pool.count().unwrap_or_default());
    let began = Instant::now();
    let cast = cast(plan, home, &names, &dirs, pool.clone(), stop).await?;
    let keys = began.elapsed();
    let needed = names.len() * 2 + 2;
    let refill = refill.map(|before| refill_target(before, needed));

    let server = match cast.registry {
        Some(identity) => Some(start_registry(plan, home, identity).await?),
        None => None,
    };
    let registry = match (&server, elsewhere) {
        (Some((_, server)), _) => Registry::new(server.credentials().clone()),
        (None, Some(registry)) => registry,
        (None, None) => unreachable!("a run without --registry has one of its own"),
    };
    if let Some(ours) = Guest::new(plan, &registry, cast.members.clone()) {
        let _first = guest.set(ours);
    }
    let seats: Vec<_> = cast.members.into_iter().zip(&ports).map(seat).collect();
    let members = names.into_iter().zip(dirs).zip(ports).map(|((name, dir), ports)| {
        let roster_file = dir.join(ROSTER_FILE);
        Member { name, dir, roster_file, ports, tls: None, tunnel: None }
    });
    let mut members: Vec<_> = members.collect();
    for (member, inside) in members.iter_mut().zip(insides) {
        member.go_inside(inside);
    }
    let mut formed = Formed {
        members,
        places: None,
        cluster_id: String::new(),
        keys,
        refill: pool.zip(refill),
        _addresses: addresses,
        gate: None,
        _stay: None,
    };
    if plan.self_join {
        formed.open_gate(plan, home, registry, server, seats).await?;
        guest.get().inspect(|guest| guest.arrive());
    } else {
        let joined = meet(plan, &registry, &seats, guest.get()).await;
        if let (Ok(roster), Some(seat)) = (&joined, seats.first()) {
            keep_signed(&registry, &seat.identity, ClusterKey::Id(roster.id), home).await?;
        }
        if let Some((home, server)) = server {
            // From here on, nobody needs it; but they say who has signed the roster.
            home.write_credentials(server.credentials())?;
            server.stop().await.context("the registry ended badly")?;
        }
        formed.take_places(plan, &joined?, &seats, registry.credentials()).await?;
    }
    formed._stay = guest.get().and_then(Guest::stay);
    Ok(formed)
}

/// Has all join, and waits until each has the whole roster.
async fn meet(
    plan: &Plan,
    registry: &Registry,
    seats: &[Seat],
    guest: Option<&Guest>,
) -> anyhow::Result<Roster> {
    let bar = Bar::new("members registered and joined");
    let size = plan.size as usize;
    bar.set(0, size);
    let joined = |joined| {
        guest.inspect(|guest| guest.arrive());
        bar.set(joined, size);
    };
    let new = plan.new_cluster(registry.wire());
    let formed = registry.form(&new, seats, plan.timeout, joined).await;
    formed.map_err(|error| match error {
        // Not the library's error, whose hint is about places that are kept.
        Error::Incomplete(incomplete) => {
            let missing = plan.names().unwrap_or_default();
            let missing = missing.iter().filter(|name| !incomplete.joined.contains(name));
            let missing: Vec<_> = missing.map(Name::as_str).collect();
            let message = format!(
                "{incomplete}; missing: {}; allow more with --timeout, or look at the registry",
                missing.join(", ")
            );
            Ending::new(Code::Incomplete, message).into()
        }
        Error::Refused {
            reason: Reason::Known(Refusal::MemberNameInUse | Refusal::ClusterFull { .. }),
            ..
        } => {
            let message = format!(
                "at this registry, cluster {} has members already; choose another name with \
                 --cluster, or none",
                plan.cluster
            );
            Ending::new(Code::Conflict, message).into()
        }
        error => anyhow::Error::from(error).context(format!("forming cluster {}", plan.cluster)),
    })
}

/// Keeps the roster that the registry signs, if it does, for whoever wants to show or check who is in
/// the cluster.
pub(super) async fn keep_signed(
    registry: &Registry,
    identity: &Identity,
    cluster: ClusterKey,
    home: &Path,
) -> anyhow::Result<()> {
    if registry.wire() == Wire::V2 {
        signed::keep_beside(registry, identity, &cluster, home).await?;
    }
    Ok(())
}

impl Formed {
    /// Notes who is where, and gives each member its roster.
    async fn take_places(
        &mut self,
        plan: &Plan,
        roster: &Roster,
        seats: &[Seat],
        credentials: &Credentials,
    ) -> anyhow::Result<()> {
        let mut places = Vec::new();
        let roster_ca = plan.tls.then(|| RosterCa::new(roster)).transpose()?;
        for (member, seat) in self.members.iter_mut().zip(seats) {
            let (key, name) = (seat.identity.sig_key(), seat.identity.name());
            let rank = roster.rank_of_key(key, name);
            let me = rank.and_then(|rank| roster.members.get(rank));
            let me = me.context("the complete roster does not show a member; this is a bug")?;
            let tls = match &roster_ca {
                Some(roster_ca) => Some(member.give_tls(plan, seat, roster, roster_ca).await?),
                None => None,
            };
            let (endpoints, dir) = (me.endpoints.clone(), member.dir.clone());
            places.push((rank, Place { name: me.name.clone(), id: me.id, endpoints, dir, tls }));
        }
        // At a registry where others have joined before us, our order may not be that of ranks.
        places.sort_by_key(|(rank, _)| *rank);
        self.members
            .sort_by_key(|member| places.iter().position(|(_, place)| place.name == member.name));
        self.cluster_id = roster.id.to_string();
        let places = Places {
            cluster: roster.title(),
            cluster_id: roster.id,
            size: roster.size,
            members: places.into_iter().map(|(_, place)| place).collect(),
        };
        for seat in seats {
            let name = seat.identity.name();
            let member = self.members.iter_mut().find(|member| member.name == *name);
            let member = member.context("a seat without a member; this is a bug")?;
            member.keep_roster(plan, &seat.identity, roster, &places, credentials).await?;
        }
        self.places = Some(places);
        Ok(())
    }

    /// Defines the cluster, and leaves joining to the programs.
    async fn open_gate(
        &mut self,
        plan: &Plan,
        home: &Path,
        registry: Registry,
        server: Option<(Home, LocalServer)>,
        seats: Vec<Seat>,
    ) -> anyhow::Result<()> {
        let onlooker = seats.into_iter().next().context("at least two members")?.identity;
        let new = plan.new_cluster(registry.wire());
        let made = registry.create(&onlooker, &new).await;
        let made = made.with_context(|| format!("creating cluster {}", plan.cluster))?;
        Error::unless_as_asked(&new, &made)?;
        self.cluster_id = made.id.to_string();
        let (credentials_file, server) = match (server, &plan.registry) {
            (Some((home, server)), _) => {
                (home.write_credentials(server.credentials())?, Some(server))
            }
            (None, Some(file)) => (std::path::absolute(file)?, None),
            (None, None) => (home.join(REGISTRY_DIR), None),
        };
        self.gate = Some(Gate { credentials_file, registry, onlooker, _server: server });
        Ok(())
    }
}

impl Member {
    /// From now on its program is at a port that only its tunnel knows, which takes its place outside.
    fn go_inside(&mut self, inside: Inside) {
        self.tunnel = self.ports.first_mut().map(|first| Tunnelled::new(first, inside));
    }

    /// Keeps the roster as its program is to see it, and beside that, for its tunnel, as it is.
    async fn keep_roster(
        &mut self,
        plan: &Plan,
        identity: &Identity,
        roster: &Roster,
        places: &Places,
        credentials: &Credentials,
    ) -> anyhow::Result<()> {
        let seen = match &mut self.tunnel {
            None => None,
            Some(tunnel) => {
                let dir = self.dir.join(TUNNEL_DIR);
                let text = format!("{:#}\n", roster.to_file_json());
                files::create_dir(&dir)
                    .and_then(|()| {
                        let path = dir.join(ROSTER_FILE);
                        files::replace_with(&path, text.as_bytes(), Mode::Public, durability(plan))
                    })
                    .with_context(|| format!("keeping the roster in {}", dir.display()))?;
                Some(tunnel.see(&self.name, places, roster)?)
            }
        };
        let seen = seen.as_ref().unwrap_or(roster);
        self.roster_file = identity.keep_roster(&self.dir, seen, credentials).await?;
        Ok(())
    }

    /// The roster as it is, for its tunnel.
    pub(crate) fn true_roster_file(&self) -> PathBuf {
        self.dir.join(TUNNEL_DIR).join(ROSTER_FILE)
    }

    /// Everybody's places as its program is told them.
    pub(crate) fn view<'a>(&'a self, places: &'a Places) -> &'a Places {
        self.tunnel.as_ref().and_then(Tunnelled::view).unwrap_or(places)
    }

    /// Puts into the member's directory what its program needs for TLS with the others'.
    async fn give_tls(
        &mut self,
        plan: &Plan,
        seat: &Seat,
        roster: &Roster,
        roster_ca: &RosterCa,
    ) -> anyhow::Result<TlsFiles> {
        let doing = || format!("making what {} needs for TLS", self.name);
        let portable = Portable::new(&seat.identity, roster).with_context(doing)?;
        let tls = portable.tls_with(roster_ca.clone(), TLS_LIFE).await.with_context(doing)?;
        portable::replace(&self.dir, tls.files(), durability(plan)).await.with_context(doing)?;
        self.tls = Some(tls.client().with_context(doing)?);
        Ok(self.tls_files())
    }

    /// Where that is, or would be.
    pub(crate) fn tls_files(&self) -> TlsFiles {
        let [cert, key, roster_ca] =
            [portable::CERT_FILE, portable::KEY_FILE, portable::ROSTER_CA_FILE];
        TlsFiles {
            cert: self.dir.join(cert),
            key: self.dir.join(key),
            roster_ca: self.dir.join(roster_ca),
        }
    }
}

fn seat((identity, ports): (Identity, &Vec<Port>)) -> Seat {
    Seat { identity, endpoints: ports.iter().map(Port::endpoint).collect() }
}

/// Identities for all: those that are kept, and new ones. Keys of a pool are for clusters that are
/// thrown away; kept ones get keys that nobody had before.
async fn cast(
    plan: &Plan,
    home: &Path,
    names: &[Name],
    dirs: &[PathBuf],
    pool: Option<KeyPool>,
    stop: &CancellationToken,
) -> anyhow::Result<Cast> {
    let registry_dir = home.join(REGISTRY_DIR);
    let mut all: Vec<_> = names.iter().cloned().zip(dirs.iter().cloned()).collect();
    if plan.registry.is_none() {
        all.push(("xlReg".parse().context("the registry's name")?, registry_dir));
    }
    let (kept, durability) = (plan.keep.is_some(), durability(plan));
    let stop = stop.clone();
    let work = move || -> anyhow::Result<Vec<xlreg_node::Identity>> {
        let mut found = Vec::new();
        for (name, dir) in all {
            let identity = match xlreg_node::Identity::load(&dir) {
                Ok(identity) if kept => Some(identity),
                Err(error)
                    if kept && !matches!(error, xlreg_node::IdentityError::Missing { .. }) =>
                {
                    return Err(error.into());
                }
                _ => None,
            };
            found.push((name, dir, identity));
        }
        let missing = found.iter().filter(|(_, _, identity)| identity.is_none()).count();
        let bar = Bar::new("making keys");
        let pool = pool.filter(|_| !kept);
        let made = make_keys(
            2 * missing,
            pool.as_ref(),
            || stop.is_cancelled(),
            |done, all| bar.set(done, all),
        );
        let made = made.map_err(|error| match error {
            MakeError::Stopped => interrupted().into(),
            MakeError::Key(error) => anyhow::Error::from(error),
        })?;
        let mut keys = made.keys.into_iter();
        let mut identities = Vec::new();
        for (name, dir, identity) in found {
            identities.push(match identity {
                Some(identity) => identity,
                None => new_identity(name, &mut keys)?.keep(&dir, durability)?,
            });
        }
        Ok(identities)
    };
    let identities = spawn_blocking(work).await.context("making identities")??;
    let mut identities: Vec<_> = identities.into_iter().map(Identity::from).collect();
    let registry = if plan.registry.is_none() { identities.pop() } else { None };
    Ok(Cast { members: identities, registry })
}

/// What the members' files must outlive.
fn durability(plan: &Plan) -> Durability {
    if plan.keep.is_some() { Durability::Lasting } else { Durability::Fleeting }
}

fn new_identity(
    name: Name,
    keys: &mut impl Iterator<Item = PrivateKey>,
) -> anyhow::Result<xlreg_node::Identity> {
    let (comms, sig) = keys.next().zip(keys.next()).context("too few keys were made")?;
    Ok(xlreg_node::Identity::from_keys(name, comms, sig))
}

/// A registry for this cluster alone; one that is kept remembers it.
async fn start_registry(
    plan: &Plan,
    home: &Path,
    identity: Identity,
) -> anyhow::Result<(Home, LocalServer)> {
    let dir = home.join(REGISTRY_DIR);
    let kept = plan.keep.is_some();
    let made = spawn_blocking(move || -> anyhow::Result<_> {
        let home = Home::ephemeral(&dir, identity.into())?;
        let engine = if kept {
            LocalEngine::open(&dir, home.id(), Limits::default())?
        } else {
            LocalEngine::in_memory(Limits::default())
        };
        Ok((home, engine))
    });
    let (home, engine) = made.await.context("starting the registry")??;
    let server = LocalServer::start(&home, Arc::new(engine)).await?;
    Ok((home, server))
}

/// Takes all ports, before anyone learns them.
fn ports(plan: &Plan) -> anyhow::Result<(Option<Block>, Vec<Vec<Port>>)> {
    let before = plan.keep.as_ref().and_then(|keep| keep.before.as_ref());
    let block = match plan.address {
        Address::Shared(_) => None,
        Address::Own => Some(claim(before)?),
    };
    if plan.self_join {
        return Ok((block, (0..plan.size).map(|_| Vec::new()).collect()));
    }
    let mut all = Vec::new();
    for rank in 0..plan.size as usize {
        let mut ports = Vec::new();
        for place in 0..plan.endpoints as usize {
            let kept = before.and_then(|kept| kept.addresses.get(rank)?.get(place));
            let address = match kept {
                Some(address) => *address,
                None => fresh_address(plan, block.as_ref(), rank, place)?,
            };
            ports.push(take_port(address, kept.is_some())?);
        }
        all.push(ports);
    }
    Ok((block, all))
}

fn claim(before: Option<&Kept>) -> anyhow::Result<Block> {
    let claimed = match before.and_then(|kept| kept.own_addresses) {
        Some(base) => Block::claim_at(base),
        None => Block::claim(random),
    };
    claimed.map_err(|error| {
        let message = format!(
            "claiming loopback addresses for the members: {error}; another run has them, perhaps \
             of the same kept cluster: see xlreg ps"
        );
        Ending::new(Code::Conflict, message).into()
    })
}

fn fresh_address(
    plan: &Plan,
    block: Option<&Block>,
    rank: usize,
    place: usize,
) -> anyhow::Result<SocketAddr> {
    let host = match (plan.address, block) {
        (Address::Shared(host), _) => host,
        (Address::Own, Some(block)) => IpAddr::V4(block.address(u8::try_from(rank)?)),
        (Address::Own, None) => unreachable!("own addresses come from a block"),
    };
    Ok(SocketAddr::new(host, plan.fixed_ports.get(place).copied().unwrap_or_default()))
}

pub(super) fn take_port(address: SocketAddr, kept: bool) -> anyhow::Result<Port> {
    Port::bind(address).map_err(|error| {
        let hint = match (kept, address.port()) {
            (true, _) => "the kept cluster has it, and somebody else listens there now",
            (false, 0) => "is the address one of this machine's? see --address",
            (false, _) => "somebody listens there, perhaps on every address of this machine",
        };
        Ending::new(Code::Conflict, format!("taking {address}: {error}; {hint}")).into()
    })
}

fn kept(plan: &Plan, addresses: Option<&Block>, ports: &[Vec<Port>], insides: &[Inside]) -> Kept {
    Kept {
        cluster: plan.cluster.to_string(),
        size: plan.size,
        endpoints: plan.endpoints,
        own_registry: plan.registry.is_none(),
        own_addresses: addresses.map(Block::base),
        addresses: ports.iter().map(|ports| ports.iter().map(Port::address).collect()).collect(),
        tunnels: insides.iter().map(Inside::kept).collect(),
    }
}

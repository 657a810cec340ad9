//! What a cluster for tests is to be, and forming it.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use xlreg_core::Name;
use xlreg_core::cluster::NewCluster;
use xlreg_core::limits::CLUSTER_SIZE_MAX;
use xlreg_launch::port::Port;
use xlreg_launch::program::Spec;
use xlreg_launch::{Check, Offer, Place, Places, Readiness, TlsFiles, Values};
use xlreg_node::files::Durability;

use super::cluster::{Life, TestCluster};
use super::error::TestError;
use super::member::{Seat, TestMember};
use super::programs::{self, Command, Programs};
use super::registry::TestRegistry;
use super::slot::{MemberState, Slot};
use super::threads::{Serve, Threads};
use super::{background, keys};
use crate::forming;
use crate::identity::Identity;
use crate::portable::{self, Portable, RosterCa, Tls};
use crate::registry::Registry;
use crate::roster::Roster;

/// The fewest members that make a cluster.
const SIZE_MIN: usize = 2;

/// The most endpoints that a member can have: one for members, one for clients.
const ENDPOINTS_MAX: usize = 2;

/// What a cluster for tests is to be. Made by [`TestCluster::builder`].
#[must_use = "nothing happens before `start`"]
#[derive(Clone)]
pub struct Builder {
    size: usize,
    name: Option<String>,
    endpoints: usize,
    timeout: Duration,
    fresh_keys: bool,
    tls: bool,
    registry: Option<Registry>,
    serve: Option<Serve>,
    program: Option<OsString>,
    arguments: Vec<String>,
    variables: Vec<(String, String)>,
    ready: Option<String>,
}

/// A [`Builder`] that asks for what can be.
struct Plan {
    new: NewCluster,
    names: Vec<Name>,
    timeout: Duration,
    fresh_keys: bool,
    tls: bool,
    what: What,
    ready: Option<Readiness>,
}

/// What members are.
enum What {
    /// The test's affair.
    Nothing,
    Functions(Serve),
    Programs(Command),
}

/// A cluster that has formed, of which nothing runs yet.
struct Formed {
    roster: Arc<Roster>,
    places: Places,
    members: Vec<TestMember>,
    dir: TempDir,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            size: 3,
            name: None,
            endpoints: 1,
            timeout: Duration::from_secs(60),
            fresh_keys: false,
            tls: false,
            registry: None,
            serve: None,
            program: None,
            arguments: Vec::new(),
            variables: Vec::new(),
            ready: None,
        }
    }
}

impl Builder {
    /// How many members: 2 to 64. It is 3 unless this is called.
    pub fn size(mut self, size: usize) -> Self {
        self.size = size;
        self
    }

    /// The cluster's name. Unless this is called, it is `test_` and a number that no other cluster
    /// of this process has.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// How many endpoints each member has: 1, or 2 if there is one for clients. It is 1 unless this
    /// is called.
    pub fn endpoints(mut self, endpoints: usize) -> Self {
        self.endpoints = endpoints;
        self
    }

    /// How long forming, and later each wait of the cluster, may take before it is an error. It is
    /// 60 s unless this is called: far more than a machine that works needs, and little enough for
    /// a test to end before its runner loses patience.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Makes keys that no other member has, of this cluster or another: two for each member, a
    /// tenth of a second each. For tests of what others can't do without the right keys.
    pub fn fresh_keys(mut self) -> Self {
        self.fresh_keys = true;
        self
    }

    /// Gives each member what it needs for TLS that trusts the cluster's members and nobody else, as
    /// `xlreg run --tls` does: [`TestMember::tls`], and files for its program, by the placeholders
    /// `{cert}`, `{key}` and `{roster_ca}`.
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Forms the cluster at this registry, for tests in which several meet at one. Unless this is
    /// called it has one of its own.
    pub fn registry(mut self, registry: &TestRegistry) -> Self {
        self.registry = Some(registry.registry().clone());
        self
    }

    /// Makes each member a function of this process, called once for each start. It is over when
    /// its future is; a panic is a failure of the member.
    ///
    /// The future runs on a thread and a runtime of the member's own; see the
    /// [module](super#what-kill-and-pause-mean) for what that means.
    pub fn serve<Serving>(
        mut self,
        serve: impl Fn(TestMember) -> Serving + Send + Sync + 'static,
    ) -> Self
    where
        Serving: Future<Output = ()> + 'static,
    {
        self.serve = Some(Arc::new(move |member| Box::pin(serve(member))));
        self
    }

    /// Makes each member a program: a path, such as `env!("CARGO_BIN_EXE_name")`, or a name on the
    /// PATH. It gets no input, and the variables that `xlreg run` gives: `XLREG_RANK`,
    /// `XLREG_ENDPOINT`, `XLREG_ROSTER` and others.
    pub fn command(mut self, program: impl Into<OsString>) -> Self {
        self.program = Some(program.into());
        self
    }

    /// Adds an argument to the program. It may have placeholders, such as `{endpoint}` or
    /// `{peers , {endpoint}}`; see [`xlreg_launch::template`].
    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Adds arguments to the program, each as [`Self::arg`] does.
    pub fn args(mut self, arguments: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Adds a variable to the program's environment. Its value may have placeholders, as arguments.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.variables.push((name.into(), value.into()));
        self
    }

    /// When a member counts as ready, written as for `xlreg run --ready`: `tcp`, `tcp:HOST:PORT`,
    /// `http://HOST:PORT/PATH` (or `https:` after [`Self::tls`]), `line:REGEX` or `cmd:COMMAND`, with
    /// placeholders. Unless this is called, a program is ready once its first endpoint takes a connection, and a function at
    /// once, since connections have been waiting for it from the start.
    pub fn ready(mut self, when: impl Into<String>) -> Self {
        self.ready = Some(when.into());
        self
    }

    /// Forms the cluster and starts its members. When this returns, the cluster is complete, and
    /// all members run; whether programs are ready yet, [`TestCluster::wait_ready`] tells.
    ///
    /// # Errors
    /// [`TestError::Builder`], [`TestError::Template`] or [`TestError::Readiness`] for what can't
    /// be, [`TestError::Form`] if the cluster does not form in time, [`TestError::Start`] if a
    /// program can't be started, and others if the system is out of ports, threads or room. Nothing
    /// remains of the attempt.
    pub async fn start(self) -> Result<TestCluster, TestError> {
        let plan = self.plan()?;
        let (registry, own) = match self.registry {
            Some(registry) => (registry, None),
            None => {
                let own = TestRegistry::start().await?;
                (own.registry().clone(), Some(own))
            }
        };
        let formed = form(&plan, registry.clone()).await?;
        let slots = plan.slots(&formed)?;
        let life = plan.start(&formed, &slots).await?;
        Ok(TestCluster {
            slots,
            life,
            roster: formed.roster,
            timeout: plan.timeout,
            make_check: plan.checks(formed.places),
            dir: Some(formed.dir),
            registry,
            _own_registry: own,
        })
    }

    fn plan(&self) -> Result<Plan, TestError> {
        let refused = |message: String| Err(TestError::Builder(message));
        let (size, endpoints) = (self.size, self.endpoints);
        let size_max = CLUSTER_SIZE_MAX as usize;
        if !(SIZE_MIN..=size_max).contains(&size) {
            return refused(format!("a cluster has {SIZE_MIN} to {size_max} members, not {size}"));
        }
        if !(1..=ENDPOINTS_MAX).contains(&endpoints) {
            return refused(format!(
                "a member has 1 or {ENDPOINTS_MAX} endpoints, not {endpoints}"
            ));
        }
        let text = self.name.clone().unwrap_or_else(next_name);
        let Ok(name) = text.parse() else {
            return refused(format!("a cluster can't be named {text:?}"));
        };
        let names = (0..size).map(|rank| format!("member_{rank}").parse().expect("that is a name"));
        let offer = Offer { endpoints, roster: true, tls: self.tls };
        let what = self.what(&offer)?;
        let ready = match (&self.ready, &what) {
            (Some(text), What::Programs(_)) => Some(text.as_str()),
            (Some(text), What::Functions(_)) if !text.starts_with("line:") => Some(text.as_str()),
            (Some(text), _) => {
                return refused(format!("{text} needs programs; name one with command"));
            }
            (None, What::Programs(_)) => Some("tcp"),
            (None, _) => None,
        };
        Ok(Plan {
            // Both were compared with their small bounds above.
            new: NewCluster::open(name, size as u32, endpoints as u32),
            names: names.collect(),
            timeout: self.timeout,
            fresh_keys: self.fresh_keys,
            tls: self.tls,
            what,
            ready: ready.map(|text| Readiness::parse(text, &offer)).transpose()?,
        })
    }

    fn what(&self, offer: &Offer) -> Result<What, TestError> {
        let refused = |message: &str| Err(TestError::Builder(message.to_owned()));
        let Some(program) = self.program.clone() else {
            if !self.arguments.is_empty() || !self.variables.is_empty() {
                return refused("arguments and variables need a program; name one with command");
            }
            return Ok(self.serve.clone().map_or(What::Nothing, What::Functions));
        };
        if self.serve.is_some() {
            return refused("a member is a function or a program: call either serve or command");
        }
        let arguments = self.arguments.iter().map(|text| programs::template(text, offer));
        let variables = self.variables.iter().map(|(name, value)| {
            programs::template(value, offer).map(|template| (name.clone(), template))
        });
        Ok(What::Programs(Command {
            program,
            arguments: arguments.collect::<Result<_, _>>()?,
            variables: variables.collect::<Result<_, _>>()?,
        }))
    }
}

/// A name that no other cluster of this process has.
fn next_name() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Makes a cast for the cluster and has all of them join.
async fn form(plan: &Plan, registry: Registry) -> Result<Formed, TestError> {
    let (names, fresh) = (plan.names.clone(), plan.fresh_keys);
    let endpoints = plan.new.endpoint_count as usize;
    let cast = move || -> Result<_, TestError> {
        let dir = tempfile::Builder::new().prefix("xlreg-test-").tempdir();
        let dir = dir.map_err(|error| TestError::io("making a directory", error))?;
        let identities = identities(&names, fresh, dir.path())?;
        let ports = names.iter().map(|_| ports(endpoints)).collect::<Result<Vec<_>, _>>()?;
        Ok((dir, identities, ports))
    };
    let (dir, identities, ports) = background::run_blocking(cast).await??;
    let seats = identities.iter().zip(&ports).map(|(identity, ports)| forming::Seat {
        identity: identity.clone(),
        endpoints: ports.iter().map(Port::endpoint).collect(),
    });
    let (new, seats, timeout) = (plan.new.clone(), seats.collect::<Vec<_>>(), plan.timeout);
    let with_tls = plan.tls;
    let roster = background::run(async move {
        let roster = registry.form(&new, &seats, timeout, |_| {}).await?;
        for seat in &seats {
            let dir = seat.identity.dir().unwrap_or(Path::new("."));
            seat.identity.keep_roster(dir, &roster, registry.credentials()).await?;
        }
        let identities = seats.iter().filter(|_| with_tls).map(|seat| &seat.identity);
        let tls = give_tls(identities, &roster).await?;
        Ok::<_, TestError>((roster, tls))
    });
    let (roster, tls) = roster.await??;
    let (roster, mut tls) = (Arc::new(roster), tls.into_iter());
    let members: Vec<_> = identities
        .into_iter()
        .zip(ports)
        .enumerate()
        .map(|(rank, (identity, ports))| seat(rank, identity, ports, &roster, tls.next()))
        .collect();
    let places = members.iter().map(|member| Place {
        name: member.name().clone(),
        id: member.id(),
        endpoints: member.endpoints().to_vec(),
        dir: member.dir().to_owned(),
        tls: member.tls().map(|_| tls_files(member.dir())),
    });
    let places = Places {
        cluster: roster.title(),
        cluster_id: roster.id,
        size: roster.size,
        members: places.collect(),
    };
    Ok(Formed { roster, places, members, dir })
}

/// Identities for all, each kept in a directory of its own.
fn identities(names: &[Name], fresh: bool, dir: &Path) -> Result<Vec<Identity>, TestError> {
    let made = keys::members(names, fresh)?.into_iter();
    let kept = made.map(|identity| {
        let own = dir.join(identity.name().as_str());
        Ok(identity.keep(&own, Durability::Fleeting)?.into())
    });
    kept.collect()
}

/// Makes what these members need for TLS, and puts it into their directories.
async fn give_tls(
    identities: impl Iterator<Item = &Identity>,
    roster: &Roster,
) -> Result<Vec<Tls>, TestError> {
    let roster_ca = RosterCa::new(roster)?;
    let mut all = Vec::new();
    for identity in identities {
        let portable = Portable::new(identity, roster)?;
        let tls = portable.tls_with(roster_ca.clone(), portable::VALID).await?;
        let dir = identity.dir().unwrap_or(Path::new("."));
        portable::replace(dir, tls.files(), Durability::Fleeting).await?;
        all.push(tls);
    }
    Ok(all)
}

fn tls_files(dir: &Path) -> TlsFiles {
    TlsFiles {
        cert: dir.join(portable::CERT_FILE),
        key: dir.join(portable::KEY_FILE),
        roster_ca: dir.join(portable::ROSTER_CA_FILE),
    }
}

fn ports(count: usize) -> Result<Vec<Port>, TestError> {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let taken = (0..count).map(|_| Port::bind(any)).collect::<Result<_, _>>();
    taken.map_err(|error| TestError::io("taking a port for a member", error))
}

fn seat(
    rank: usize,
    identity: Identity,
    ports: Vec<Port>,
    roster: &Arc<Roster>,
    tls: Option<Tls>,
) -> TestMember {
    let dir = identity.dir().map_or_else(PathBuf::new, Path::to_owned);
    TestMember::new(Arc::new(Seat {
        rank,
        identity,
        roster: Arc::clone(roster),
        roster_file: dir.join("roster.json"),
        dir,
        tls,
        addresses: ports.iter().map(Port::address).collect(),
        _ports: ports,
    }))
}

impl Plan {
    /// A slot for each member.
    fn slots(&self, formed: &Formed) -> Result<Vec<Arc<Slot>>, TestError> {
        let slot = |member: &TestMember| {
            let check = self.check(&formed.places, member)?;
            Ok(Arc::new(Slot::new(member.clone(), check)))
        };
        formed.members.iter().map(slot).collect()
    }

    /// How to tell when a member is ready, if that is asked.
    fn check(&self, places: &Places, member: &TestMember) -> Result<Option<Check>, TestError> {
        let Some(ready) = &self.ready else { return Ok(None) };
        let (rank, roster_file) = (member.rank(), member.roster_file());
        let environment = match &self.what {
            What::Programs(command) => command.environment(places, rank, roster_file),
            _ => programs::environment(places, rank, roster_file),
        };
        let tls = member.tls().map(Tls::client).transpose()?;
        let values = Values::Member { places, rank, roster_file };
        Ok(Some(ready.check(&values, environment, tls.as_ref())?))
    }

    /// The same for later: a check is of use for one start.
    fn checks(self, places: Places) -> CheckMaker {
        Box::new(move |member| self.check(&places, member))
    }

    /// Starts all members.
    async fn start(&self, formed: &Formed, slots: &[Arc<Slot>]) -> Result<Life, TestError> {
        match &self.what {
            What::Nothing => {
                for slot in slots {
                    slot.listen()?;
                    slot.state.send_replace(MemberState::Running);
                }
                Ok(Life::Nothing)
            }
            What::Functions(serve) => {
                let threads = Threads::new(Arc::clone(serve), slots.len());
                for (rank, slot) in slots.iter().enumerate() {
                    // Dropped on the way out, `threads` ends those that run.
                    threads.start(rank, slot)?;
                }
                Ok(Life::Threads(threads))
            }
            What::Programs(command) => {
                let spec = |member: &TestMember| -> Option<Spec> {
                    command.spec(&formed.places, member.rank(), member.roster_file())
                };
                let specs = formed.members.iter().filter_map(spec).collect();
                let programs = background::run(Programs::start(specs, slots.to_vec()));
                Ok(Life::Programs(programs.await??))
            }
        }
    }
}

/// Makes a member's check anew.
pub(super) type CheckMaker =
    Box<dyn Fn(&TestMember) -> Result<Option<Check>, TestError> + Send + Sync>;

//! From a file to the state in memory: each table read once, in order, and nothing in it believed.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use rusqlite::{Connection, Row, Rows, Statement};
use xlreg_core::limits::{CLUSTER_EXPELLED_MAX, CLUSTER_TOKENS_MAX, Limits};
use xlreg_core::{
    Change, Cluster, ClusterId, EntrySignature, Fingerprint, Member, NodeId, Registry, Seat, Time,
    Token, View,
};

use crate::StoreError;
use crate::rows::{
    self, Problem, Retirement, SELECT_CLUSTERS, SELECT_COMMS_KEYS, SELECT_DEPARTED,
    SELECT_EXPELLED, SELECT_MEMBERS, SELECT_NODES, SELECT_REGISTRY, SELECT_RETIREMENTS,
    SELECT_SIGNATURES, SELECT_TERMS, SELECT_TOKENS, Terms,
};

/// Reads the tables of one file.
pub(crate) struct Loader<'a> {
    pub(crate) connection: &'a Connection,
    pub(crate) path: &'a Path,
}

impl Loader<'_> {
    /// The ID of the registry whose file this is.
    pub(crate) fn owner(&self) -> Result<NodeId, StoreError> {
        let damaged = |problem| self.damaged("registry", "its only row", problem);
        let mut owner = None;
        self.each(SELECT_REGISTRY, |row| {
            owner = Some(rows::read_registry(row).map_err(damaged)?);
            Ok(())
        })?;
        owner.ok_or_else(|| damaged("it is missing".to_owned()))
    }

    /// Everything it remembers.
    ///
    /// `limits` bound what may come later; what is there already is loaded whatever they say.
    pub(crate) fn registry(&self, limits: Limits, now: Time) -> Result<Registry, StoreError> {
        let mut registry = Registry::new(limits);
        self.nodes(&mut registry)?;
        self.comms_keys(&mut registry)?;
        self.clusters(&mut registry, now)?;
        Ok(registry)
    }

    /// Registrations and retirements as they came, since a retirement hands on only what was there.
    fn nodes(&self, registry: &mut Registry) -> Result<(), StoreError> {
        let mut statement = self.prepare(SELECT_RETIREMENTS)?;
        let mut retirements =
            Retirements { loader: self, rows: self.sql(statement.query([]))?, seq: 0, next: None };
        retirements.advance()?;
        let mut seq = 0;
        self.each(SELECT_NODES, |row| {
            retirements.apply(registry, seq)?;
            seq += 1;
            let node = rows::read_node(row, seq)
                .map_err(|problem| self.damaged("nodes", &format!("seq {seq}"), problem))?;
            registry.apply(&node);
            Ok(())
        })?;
        retirements.apply(registry, seq)?;
        match &retirements.next {
            None => Ok(()),
            Some(next) => {
                let problem =
                    format!("a key was retired after node {}: rows are missing", next.after);
                Err(self.damaged("nodes", &format!("seq {}", seq + 1), problem))
            }
        }
    }

    fn comms_keys(&self, registry: &mut Registry) -> Result<(), StoreError> {
        let mut place = 0;
        self.each(SELECT_COMMS_KEYS, |row| {
            place += 1;
            let damaged =
                |problem| self.damaged("comms_keys", &format!("row {place} by node"), problem);
            let (id, key) = rows::read_comms_key(row).map_err(damaged)?;
            if registry.owner(&id).is_none() {
                return Err(damaged(format!("there is no node {id}")));
            }
            registry.apply(&Change::Comms { id, key });
            Ok(())
        })
    }

    /// All tables come ordered by the cluster's ID, so one pass over each will do.
    fn clusters(&self, registry: &mut Registry, now: Time) -> Result<(), StoreError> {
        let mut statements = [
            self.prepare(SELECT_TERMS)?,
            self.prepare(SELECT_MEMBERS)?,
            self.prepare(SELECT_SIGNATURES)?,
            self.prepare(SELECT_DEPARTED)?,
            self.prepare(SELECT_EXPELLED)?,
            self.prepare(SELECT_TOKENS)?,
        ];
        let [terms, members, signatures, departed, expelled, tokens] = &mut statements;
        let mut terms = self.about("terms", terms, rows::read_terms)?;
        let mut members = self.about("members", members, |row| {
            rows::read_member(row).map(|(cluster, rank, member)| (cluster, (rank, member)))
        })?;
        let mut signatures = self.about("signatures", signatures, |row| {
            rows::read_signature(row).map(|(cluster, rank, over)| (cluster, (rank, over)))
        })?;
        let mut departed = self.about("departed", departed, rows::read_departed)?;
        let mut expelled = self.about("expelled", expelled, rows::read_expelled)?;
        let mut tokens = self.about("tokens", tokens, rows::read_token)?;
        let mut place = 0;
        self.each(SELECT_CLUSTERS, |row| {
            place += 1;
            let cluster = rows::read_cluster(row).map_err(|problem| {
                self.damaged("clusters", &format!("row {place} by ID"), problem)
            })?;
            let id = cluster.id;
            let parts = Parts {
                terms: terms.of(&id)?.pop(),
                members: members.of(&id)?,
                signatures: signatures.of(&id)?,
                departed: departed.of(&id)?,
                expelled: expelled.of(&id)?,
                tokens: tokens.of(&id)?,
            };
            let cluster = Cluster { active: now, ..cluster };
            let cluster = parts.assemble(cluster).map_err(|wrong| {
                let row = format!("cluster {id}{}", wrong.place);
                self.damaged(wrong.table, &row, wrong.problem)
            })?;
            apply(registry, &Arc::new(cluster));
            Ok(())
        })?;
        terms.end()?;
        members.end()?;
        signatures.end()?;
        departed.end()?;
        expelled.end()?;
        tokens.end()
    }

    fn prepare(&self, sql: &str) -> Result<Statement<'_>, StoreError> {
        self.sql(self.connection.prepare(sql))
    }

    /// Starts to read a table about clusters.
    fn about<'s, T>(
        &'s self,
        table: &'static str,
        statement: &'s mut Statement<'_>,
        read: fn(&Row<'_>) -> Result<(ClusterId, T), Problem>,
    ) -> Result<About<'s, T>, StoreError> {
        let rows = self.sql(statement.query([]))?;
        let mut about = About { loader: self, table, read, rows, next: None };
        about.advance()?;
        Ok(about)
    }

    fn each(
        &self,
        sql: &str,
        mut each: impl FnMut(&Row<'_>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut statement = self.sql(self.connection.prepare(sql))?;
        let mut rows = self.sql(statement.query([]))?;
        while let Some(row) = self.sql(rows.next())? {
            each(row)?;
        }
        Ok(())
    }

    fn sql<T>(&self, result: rusqlite::Result<T>) -> Result<T, StoreError> {
        result.map_err(|source| StoreError::sqlite("read", self.path, source))
    }

    fn damaged(&self, table: &'static str, row: &str, problem: Problem) -> StoreError {
        StoreError::Damaged { path: self.path.to_owned(), table, row: row.to_owned(), problem }
    }
}

/// The retirements, one of them read ahead.
struct Retirements<'a> {
    loader: &'a Loader<'a>,
    rows: Rows<'a>,
    seq: i64,
    next: Option<Retirement>,
}

impl Retirements<'_> {
    /// Applies those that happened when `nodes` IDs had been registered.
    fn apply(&mut self, registry: &mut Registry, nodes: i64) -> Result<(), StoreError> {
        while let Some(Retirement { after, old, new }) =
            self.next.take_if(|next| next.after <= nodes)
        {
            let has_ids = |key| registry.key(key).latest.is_some();
            let problem = if after != nodes {
                "it stands after a later one"
            } else if !has_ids(&old) {
                "the old key has nothing to hand on"
            } else if has_ids(&new) || registry.key(&new).is_retired() {
                "the new key was known already"
            } else {
                registry.apply(&Change::Retired { old, new });
                self.advance()?;
                continue;
            };
            return Err(self.damaged(problem.to_owned()));
        }
        Ok(())
    }

    fn advance(&mut self) -> Result<(), StoreError> {
        self.seq += 1;
        let next = self.loader.sql(self.rows.next())?;
        let next = next.map(|row| rows::read_retirement(row, self.seq)).transpose();
        self.next = next.map_err(|problem| self.damaged(problem))?;
        Ok(())
    }

    fn damaged(&self, problem: Problem) -> StoreError {
        self.loader.damaged("retirements", &format!("seq {}", self.seq), problem)
    }
}

/// The rows of a table about clusters, one of them read ahead.
struct About<'a, T> {
    loader: &'a Loader<'a>,
    table: &'static str,
    read: fn(&Row<'_>) -> Result<(ClusterId, T), Problem>,
    rows: Rows<'a>,
    next: Option<(ClusterId, T)>,
}

impl<T> About<'_, T> {
    /// Takes the rows about this cluster, if they are the next to come.
    fn of(&mut self, cluster: &ClusterId) -> Result<Vec<T>, StoreError> {
        let mut all = Vec::new();
        while let Some((_, one)) = self.next.take_if(|(next, _)| next == cluster) {
            all.push(one);
            self.advance()?;
        }
        match &self.next {
            Some((next, _)) if next < cluster => self.end().map(|()| all),
            _ => Ok(all),
        }
    }

    /// Makes sure that there are no rows left, about clusters that aren't there.
    fn end(&self) -> Result<(), StoreError> {
        match &self.next {
            None => Ok(()),
            Some((cluster, _)) => {
                let problem = "there is no such cluster".to_owned();
                Err(self.loader.damaged(self.table, &format!("cluster {cluster}"), problem))
            }
        }
    }

    fn advance(&mut self) -> Result<(), StoreError> {
        let read = match self.loader.sql(self.rows.next())? {
            None => None,
            Some(row) => Some((self.read)(row).map_err(|problem| {
                self.loader.damaged(self.table, &rows::place_of(row), problem)
            })?),
        };
        self.next = read;
        Ok(())
    }
}

/// What the other tables have about one cluster.
struct Parts {
    terms: Option<Terms>,
    members: Vec<(usize, Member)>,
    signatures: Vec<(usize, EntrySignature)>,
    departed: Vec<usize>,
    expelled: Vec<Fingerprint>,
    tokens: Vec<Token>,
}

/// What is wrong with a cluster's rows, and in which table it shows.
struct Wrong {
    table: &'static str,
    place: String,
    problem: Problem,
}

impl Wrong {
    fn new(table: &'static str, problem: impl Into<Problem>) -> Self {
        Self { table, place: String::new(), problem: problem.into() }
    }

    fn at_rank(table: &'static str, rank: usize, problem: impl Into<Problem>) -> Self {
        Self { place: format!(", rank {rank}"), ..Self::new(table, problem) }
    }
}

impl Parts {
    /// The cluster as it was, if it could ever be so. The rules of who may come in are not asked
    /// again: they may be others by now, and a token that has expired let somebody in all the same.
    fn assemble(self, mut cluster: Cluster) -> Result<Cluster, Wrong> {
        if let Some(Terms { owner, policy, life }) = self.terms {
            (cluster.owner, cluster.policy, cluster.life) = (owner, policy, life);
        }
        if self.expelled.len() > CLUSTER_EXPELLED_MAX {
            return Err(Wrong::new("expelled", "there are more than may be"));
        }
        cluster.expelled = self.expelled.into_iter().collect();
        let mut signatures = self.signatures.into_iter().peekable();
        for (rank, mut member) in self.members {
            member.entry_signature =
                signatures.next_if(|(of, _)| *of == rank).map(|(_, signature)| signature);
            seat(&mut cluster, rank, member)
                .map_err(|wrong| Wrong::at_rank("members", rank, wrong))?;
        }
        // Both come by rank, so one that is left over belongs to nobody.
        if let Some((rank, _)) = signatures.next() {
            return Err(Wrong::at_rank("signatures", rank, "nobody holds it"));
        }
        for rank in self.departed {
            let seat = cluster.seats.get_mut(rank);
            let held = seat.and_then(|seat| Some((seat.present().cloned()?, seat)));
            let Some((member, seat)) = held else {
                return Err(Wrong::at_rank("departed", rank, "nobody holds it"));
            };
            *seat = Seat::Left(member);
        }
        if cluster.revision < lowest_revision(&cluster) {
            return Err(Wrong::new("clusters", "its revision is too low"));
        }
        let mut ids = HashSet::new();
        if !self.tokens.iter().all(|token| ids.insert(*token.id.as_bytes())) {
            return Err(Wrong::new("tokens", "two have the same ID"));
        }
        if self.tokens.len() > CLUSTER_TOKENS_MAX {
            return Err(Wrong::new("tokens", "there are more than may be"));
        }
        cluster.tokens = self.tokens.into_iter().map(Arc::new).collect();
        Ok(cluster)
    }
}

/// Puts a member on its rank, if what must always hold still does.
fn seat(cluster: &mut Cluster, rank: usize, member: Member) -> Result<(), Problem> {
    if rank >= cluster.size as usize {
        return Err(format!("there are only {} ranks", cluster.size));
    }
    if rank < cluster.seats.len() {
        return Err("the rank stands there twice".to_owned());
    }
    if rank > cluster.seats.len() && cluster.expelled.is_empty() {
        return Err(format!("expected rank {}: rows are missing", cluster.seats.len()));
    }
    cluster.check_endpoints(member.endpoints.len()).map_err(|refusal| refusal.to_string())?;
    if cluster.holders().any(|(_, holder)| holder.name == member.name) {
        return Err("its name is another member's".to_owned());
    }
    if cluster.member(&member.id).is_some() {
        return Err("its ID is another member's".to_owned());
    }
    cluster.seats.resize(rank, Seat::Free);
    cluster.seats.push(Seat::Present(Arc::new(member)));
    Ok(())
}

/// How many changes it takes at least to come to such a roster: one for whoever holds a rank, one
/// more for who has left, and two for each rank and each key that somebody was expelled from.
fn lowest_revision(cluster: &Cluster) -> u64 {
    let free = cluster.seats.iter().filter(|seat| **seat == Seat::Free).count();
    let held = cluster.seats.len() - free;
    let left = held - cluster.present().count();
    (held + left + 2 * free.max(cluster.expelled.len())) as u64
}

/// Lets a whole cluster and its members into the state.
fn apply(registry: &mut Registry, cluster: &Arc<Cluster>) {
    registry.apply(&Change::Cluster(Arc::clone(cluster)));
    for (rank, _) in cluster.holders() {
        registry.apply(&Change::Seat { cluster: Arc::clone(cluster), rank, was: None });
    }
}

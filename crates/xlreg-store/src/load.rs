//! From a file to the state in memory: each table read once, in order, and nothing in it believed.

use std::path::Path;
use std::sync::Arc;

use rusqlite::{Connection, Row, Rows};
use xlreg_core::limits::Limits;
use xlreg_core::{Change, Cluster, ClusterId, Member, NodeId, Registry, Time};

use crate::StoreError;
use crate::rows::{self, Problem, SELECT_CLUSTERS, SELECT_MEMBERS, SELECT_NODES, SELECT_REGISTRY};

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
        self.clusters(&mut registry, now)?;
        Ok(registry)
    }

    fn nodes(&self, registry: &mut Registry) -> Result<(), StoreError> {
        let mut seq = 0;
        self.each(SELECT_NODES, |row| {
            seq += 1;
            let node = rows::read_node(row, seq)
                .map_err(|problem| self.damaged("nodes", &format!("seq {seq}"), problem))?;
            registry.apply(&node);
            Ok(())
        })
    }

    /// Clusters and members both come ordered by the cluster's ID, so one pass over each will do.
    fn clusters(&self, registry: &mut Registry, _now: Time) -> Result<(), StoreError> {
        let mut statement = self.sql(self.connection.prepare(SELECT_MEMBERS))?;
        let mut members =
            Members { loader: self, rows: self.sql(statement.query([]))?, next: None };
        members.advance()?;
        let mut place = 0;
        self.each(SELECT_CLUSTERS, |row| {
            place += 1;
            let cluster = rows::read_cluster(row).map_err(|problem| {
                self.damaged("clusters", &format!("row {place} by ID"), problem)
            })?;
            let members = members.of(&cluster.id)?;
            self.cluster(registry, cluster, members)
        })?;
        match &members.next {
            None => Ok(()),
            Some((cluster, ..)) => {
                let row = format!("cluster {cluster}");
                Err(self.damaged("members", &row, "there is no such cluster".to_owned()))
            }
        }
    }

    /// Lets the members come one by one as they once did.
    fn cluster(
        &self,
        registry: &mut Registry,
        mut cluster: Cluster,
        members: Vec<(usize, Member)>,
    ) -> Result<(), StoreError> {
        // Each of them raised the revision by one; coming back raised it further.
        let raised = members.len() as u64;
        cluster.revision = cluster.revision.checked_sub(raised).ok_or_else(|| {
            let row = format!("cluster {}", cluster.id);
            self.damaged("clusters", &row, "its revision is too low".to_owned())
        })?;
        let mut cluster = Arc::new(cluster);
        registry.apply(&Change::Cluster(Arc::clone(&cluster)));
        for (rank, member) in members {
            let seated = seat(&cluster, rank, member).map_err(|problem| {
                let row = format!("cluster {}, rank {rank}", cluster.id);
                self.damaged("members", &row, problem)
            })?;
            cluster = Arc::new(seated);
            registry.apply(&Change::Seat { cluster: Arc::clone(&cluster), rank, was: None });
        }
        Ok(())
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

/// The rows of all members, one of them read ahead.
struct Members<'a> {
    loader: &'a Loader<'a>,
    rows: Rows<'a>,
    next: Option<(ClusterId, usize, Member)>,
}

impl Members<'_> {
    /// Takes the members of this cluster, if they are the next to come.
    fn of(&mut self, cluster: &ClusterId) -> Result<Vec<(usize, Member)>, StoreError> {
        let mut members = Vec::new();
        while let Some((_, rank, member)) = self.next.take_if(|(next, ..)| next == cluster) {
            members.push((rank, member));
            self.advance()?;
        }
        Ok(members)
    }

    fn advance(&mut self) -> Result<(), StoreError> {
        let read = match self.loader.sql(self.rows.next())? {
            None => None,
            Some(row) => Some(rows::read_member(row).map_err(|problem| {
                let row = rows::place_of_member(row);
                self.loader.damaged("members", &row, problem)
            })?),
        };
        self.next = read;
        Ok(())
    }
}

/// The cluster with the member in it, by the rules themselves: whoever they would not admit to this
/// rank can't have been written there.
fn seat(cluster: &Cluster, rank: usize, member: Member) -> Result<Cluster, Problem> {
    match cluster.admit(&member, &xlreg_core::Admission::Key, Time::default()) {
        Ok((admitted, _)) if admitted == rank => Ok(cluster.with_seat(
            rank,
            xlreg_core::Seat::Present(Arc::new(member)),
            xlreg_core::cluster::EventKind::Joined,
            Time::default(),
        )),
        Ok((admitted, _)) => Err(format!("expected rank {admitted}: rows are missing")),
        Err(refusal) => Err(format!("the rules would not admit this member: {refusal}")),
    }
}

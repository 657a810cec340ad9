//! Forming a whole cluster at once, by whoever holds all of its members: launchers and tests.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use xlreg_core::cluster::NewCluster;
use xlreg_core::{ClusterKey, Endpoint};

use crate::error::{Error, Incomplete};
use crate::identity::Identity;
use crate::lookup::absurd;
use crate::membership::Membership;
use crate::registry::Registry;
use crate::roster::Roster;

/// A member to be.
#[derive(Clone, Debug)]
pub struct Seat {
    /// Who.
    pub identity: Identity,
    /// Where it will be reached.
    pub endpoints: Vec<Endpoint>,
}

impl Registry {
    /// Defines the cluster `new` and makes all `seats` its members, in their order: in a new
    /// cluster the first gets rank 0, and so on. Returns the complete roster when every one of
    /// them has got it from the registry by itself, and all have got the same. `joined` is told
    /// after each join how many there are.
    ///
    /// Forming it again with the same identities gives the same ranks.
    ///
    /// # Errors
    /// [`Error::Incomplete`] if that takes longer than `at_most`, [`Error::Differs`] if there is a
    /// cluster of that name and another size, or whatever refuses a member.
    pub async fn form(
        &self,
        new: &NewCluster,
        seats: &[Seat],
        at_most: Duration,
        mut joined: impl FnMut(usize),
    ) -> Result<Roster, Error> {
        let began = Instant::now();
        let by = began + at_most;
        let mut members = Vec::new();
        let joining = timeout_at(by, self.join_all(new, seats, &mut members, &mut joined)).await;
        let late = |members: &[Membership], silence: Option<String>| {
            let names = seats.iter().map(|seat| seat.identity.name().clone());
            Error::Incomplete(Incomplete {
                cluster: new.name.to_string(),
                size: new.size,
                joined: names.take(members.len()).collect(),
                waited: began.elapsed(),
                silence,
            })
        };
        match joining {
            Ok(done) => done?,
            Err(_) => return Err(late(&members, Some("it has not answered".to_owned()))),
        }
        let mut waiting = JoinSet::new();
        for mut membership in members {
            let rest = by.saturating_duration_since(Instant::now());
            waiting.spawn(async move {
                let roster = membership.wait(rest).await;
                membership.close().await;
                roster
            });
        }
        let mut roster: Option<Roster> = None;
        while let Some(waited) = waiting.join_next().await {
            let own = waited.expect("waiting does not panic");
            let own = own.map_err(|error| error.since(began.into_std()))?;
            match &roster {
                Some(first) if *first != own => {
                    return Err(absurd("GetCluster", "two members were given different rosters"));
                }
                Some(_) => {}
                None => roster = Some(own),
            }
        }
        roster.ok_or_else(|| late(&[], None))
    }

    /// One after another, since the order of joins is that of ranks.
    async fn join_all(
        &self,
        new: &NewCluster,
        seats: &[Seat],
        members: &mut Vec<Membership>,
        joined: &mut impl FnMut(usize),
    ) -> Result<(), Error> {
        let Some(first) = seats.first() else { return Ok(()) };
        let made = self.create(&first.identity, new).await?;
        Error::unless_as_asked(new, &made)?;
        let key = ClusterKey::Name(new.name.clone());
        for seat in seats {
            let endpoints = seat.endpoints.clone();
            let member = self.join_known(&seat.identity, &key, Some(made.id), endpoints, None);
            members.push(member.await?);
            joined(members.len());
        }
        Ok(())
    }
}
